// Adaptive pooling of channels-last images to a given output size, down to one pixel. Window i of `out` over `in` elements covers
// floor(i * in / out) .. ceil((i + 1) * in / out).
//
// Forward: a block reduces one window, its threads spread over the window's pixels and channels (`Tile`); blockIdx.y strides over
// windows. Backward: a thread handles V channels of one input pixel and gathers from the windows that cover it.
#include "arguments.cuh"
#include "channels.cuh"

namespace {

/// Elements [first, last) of window `i` along an axis.
struct Range {
  int first, last;
  __device__ Range(int in, int out, int i) {
    first = (int)((long long)i * in / out);
    last = (int)(((i + 1ll) * in + out - 1) / out);
  }
  __device__ int length() const { return last - first; }
};

/// Windows [first, last) that cover element `i`: the inverse of Range.
struct Covering : Range {
  __device__ Covering(int in, int out, int i) : Range(out, in, i) {}
};

/// Pixels of one window of one image.
struct WindowPixels {
  Range vertical, horizontal;
  long long image;
  __device__ WindowPixels(const AdaptivePool& p, long long window)
      : vertical(p.size[0], p.out[0], (int)(window / p.out[1] % p.out[0])),
        horizontal(p.size[1], p.out[1], (int)(window % p.out[1])),
        image(window / p.out[1] / p.out[0] * p.size[0] * p.size[1]) {}
  __device__ int pixels() const { return vertical.length() * horizontal.length(); }
  /// Index within the image of the window's pixel `i`.
  __device__ int pixel(const AdaptivePool& p, int i) const {
    const int width = horizontal.length();
    return (vertical.first + i / width) * p.size[1] + horizontal.first + i % width;
  }
};

template <typename T, int V>
__device__ void avg_forward(const T* __restrict__ x, T* __restrict__ y, long long windows, AdaptivePool p) {
  const Tile<V> tile(p.c);
  for (long long window = blockIdx.y; window < windows; window += gridDim.y) {
    const WindowPixels w(p, window);
    for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
      const int at = tile.channel(t);
      float sum[V] = {};
      if (at < p.c) {
        for (int i = tile.row; i < w.pixels(); i += tile.rows) {
          float v[V];
          load<V>(x + (w.image + w.pixel(p, i)) * p.c + at, v);
#pragma unroll
          for (int k = 0; k < V; k++) sum[k] += v[k];
        }
      }
      sum_over_rows(sum, tile.lanes);
      if (at < p.c && tile.row == 0) {
        const float scale = 1.0f / w.pixels();
#pragma unroll
        for (int k = 0; k < V; k++) sum[k] *= scale;
        store<V>(y + window * p.c + at, sum);
      }
    }
  }
}

template <typename T, int V>
__device__ void avg_backward(const T* __restrict__ dy, T* __restrict__ dx, long long rows, AdaptivePool p) {
  const int packs = p.c / V;
  for (long long row = blockIdx.y; row < rows; row += gridDim.y) {
    const Covering vertical(p.size[0], p.out[0], (int)(row % p.size[0]));
    const T* image = dy + row / p.size[0] * p.out[0] * p.out[1] * p.c;
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < p.size[1] * packs; i += gridDim.x * kThreads) {
      const int ix = i / packs, j = (i - ix * packs) * V;
      const Covering horizontal(p.size[1], p.out[1], ix);
      float sum[V] = {};
      for (int oy = vertical.first; oy < vertical.last; oy++) {
        for (int ox = horizontal.first; ox < horizontal.last; ox++) {
          const float scale = 1.0f / (Range(p.size[0], p.out[0], oy).length() * Range(p.size[1], p.out[1], ox).length());
          float g[V];
          load<V>(image + ((long long)oy * p.out[1] + ox) * p.c + j, g);
#pragma unroll
          for (int k = 0; k < V; k++) sum[k] = fmaf(g[k], scale, sum[k]);
        }
      }
      store<V>(dx + (row * p.size[1] + ix) * p.c + j, sum);
    }
  }
}

/// True when element (v, pixel) replaces (best, chosen): the larger value, NaN above all, the first of equals, the last of several NaN.
__device__ __forceinline__ bool takes_precedence(float v, int pixel, float best, int chosen) {
  if (v != v) return best == best || pixel > chosen;
  return v > best || (v == best && pixel < chosen);
}

/// Maximum of each window, and the index of its pixel within the image.
template <typename T, int V>
__device__ void max_forward(const T* __restrict__ x, T* __restrict__ y, int* __restrict__ chosen, long long windows, AdaptivePool p) {
  __shared__ float shared_best[kThreads];
  __shared__ int shared_pixel[kThreads];
  const Tile<V> tile(p.c);
  const int thread = threadIdx.x;
  for (long long window = blockIdx.y; window < windows; window += gridDim.y) {
    const WindowPixels w(p, window);
    for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
      const int at = tile.channel(t);
      float best[V];
      int pixel[V];
#pragma unroll
      for (int k = 0; k < V; k++) {
        best[k] = __int_as_float(0xff800000);
        // Threads without a pixel use an index past the image; a window of -infinity yields its first pixel.
        pixel[k] = tile.row < w.pixels() ? w.pixel(p, tile.row) : 0x7fffffff;
      }
      if (at < p.c) {
        for (int i = tile.row; i < w.pixels(); i += tile.rows) {
          const int number = w.pixel(p, i);
          float v[V];
          load<V>(x + (w.image + number) * p.c + at, v);
#pragma unroll
          for (int k = 0; k < V; k++) {
            if (takes_precedence(v[k], number, best[k], pixel[k])) {
              best[k] = v[k];
              pixel[k] = number;
            }
          }
        }
      }
#pragma unroll
      for (int k = 0; k < V; k++) {
        shared_best[thread] = best[k];
        shared_pixel[thread] = pixel[k];
        for (int half = tile.rows / 2; half > 0; half /= 2) {
          __syncthreads();
          const int other = thread + half * tile.lanes;
          if (tile.row < half && takes_precedence(shared_best[other], shared_pixel[other], shared_best[thread], shared_pixel[thread])) {
            shared_best[thread] = shared_best[other];
            shared_pixel[thread] = shared_pixel[other];
          }
        }
        best[k] = shared_best[thread];
        pixel[k] = shared_pixel[thread];
        __syncthreads();
      }
      if (at < p.c && tile.row == 0) {
        store<V>(y + window * p.c + at, best);
#pragma unroll
        for (int k = 0; k < V; k++) chosen[window * p.c + at + k] = pixel[k];
      }
    }
  }
}

/// dx: the sum of dy over the windows whose maximum is this pixel.
template <typename T, int V>
__device__ void max_backward(const T* __restrict__ dy, const int* __restrict__ chosen, T* __restrict__ dx, long long rows, AdaptivePool p) {
  const int packs = p.c / V;
  for (long long row = blockIdx.y; row < rows; row += gridDim.y) {
    const int iy = (int)(row % p.size[0]);
    const Covering vertical(p.size[0], p.out[0], iy);
    const long long image = row / p.size[0] * p.out[0] * p.out[1] * p.c;
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < p.size[1] * packs; i += gridDim.x * kThreads) {
      const int ix = i / packs, j = (i - ix * packs) * V, pixel = iy * p.size[1] + ix;
      const Covering horizontal(p.size[1], p.out[1], ix);
      float sum[V] = {};
      for (int oy = vertical.first; oy < vertical.last; oy++) {
        for (int ox = horizontal.first; ox < horizontal.last; ox++) {
          const long long at = image + ((long long)oy * p.out[1] + ox) * p.c + j;
          float g[V];
          load<V>(dy + at, g);
#pragma unroll
          for (int k = 0; k < V; k++) sum[k] += chosen[at + k] == pixel ? g[k] : 0;
        }
      }
      store<V>(dx + (row * p.size[1] + ix) * p.c + j, sum);
    }
  }
}

/// For each window the pixel that was its maximum.
template <typename T>
__device__ void max_pick(const T* __restrict__ x, const int* __restrict__ chosen, T* __restrict__ y, long long rows, AdaptivePool p) {
  for (long long row = blockIdx.y; row < rows; row += gridDim.y) {
    const long long image = row / p.out[0] * p.size[0] * p.size[1];
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < p.out[1] * p.c; i += gridDim.x * kThreads) {
      const long long at = row * p.out[1] * p.c + i;
      y[at] = x[(image + chosen[at]) * p.c + i % p.c];
    }
  }
}

/// Gradient of a global maximum y [n, c], distributed evenly between the pixels that equal it, as PyTorch's amax does.
template <typename T, int V>
__device__ void amax_backward(const T* __restrict__ x, const T* __restrict__ y, const T* __restrict__ dy, T* __restrict__ dx,
                                    long long images, int pixels, int c) {
  __shared__ float pixel_grad[kLanes][V];
  const Tile<V> tile(c);
  for (long long n = blockIdx.y; n < images; n += gridDim.y) {
    for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
      const int at = tile.channel(t);
      float max[V], equals[V] = {};
      if (at < c) {
        load<V>(y + n * c + at, max);
        for (int i = tile.row; i < pixels; i += tile.rows) {
          float v[V];
          load<V>(x + (n * pixels + i) * c + at, v);
#pragma unroll
          for (int k = 0; k < V; k++) equals[k] += v[k] == max[k] ? 1.0f : 0.0f;
        }
      }
      sum_over_rows(equals, tile.lanes);
      if (at < c && tile.row == 0) {
        float g[V];
        load<V>(dy + n * c + at, g);
#pragma unroll
        for (int k = 0; k < V; k++) pixel_grad[tile.lane][k] = g[k] / equals[k];
      }
      __syncthreads();
      if (at < c) {
        for (int i = tile.row; i < pixels; i += tile.rows) {
          float v[V];
          load<V>(x + (n * pixels + i) * c + at, v);
#pragma unroll
          for (int k = 0; k < V; k++) v[k] = v[k] == max[k] ? pixel_grad[tile.lane][k] : 0;
          store<V>(dx + (n * pixels + i) * c + at, v);
        }
      }
      __syncthreads();
    }
  }
}

}  // namespace

#define ADAPTIVE_POOL(T, name)                                                                                    \
  KERNEL adaptive_avg_pool_fwd_##name(const T* x, T* y, long long windows, AdaptivePool p) {                      \
    if (in_packs<T>(p.c, aligned(x) && aligned(y))) avg_forward<T, Pack<T>::N>(x, y, windows, p);                 \
    else avg_forward<T, 1>(x, y, windows, p);                                                                     \
  }                                                                                                               \
  KERNEL adaptive_avg_pool_bwd_##name(const T* dy, T* dx, long long rows, AdaptivePool p) {                       \
    if (in_packs<T>(p.c, aligned(dy) && aligned(dx))) avg_backward<T, Pack<T>::N>(dy, dx, rows, p);               \
    else avg_backward<T, 1>(dy, dx, rows, p);                                                                     \
  }                                                                                                               \
  KERNEL adaptive_max_pool_fwd_##name(const T* x, T* y, int* chosen, long long windows, AdaptivePool p) {         \
    if (in_packs<T>(p.c, aligned(x) && aligned(y))) max_forward<T, Pack<T>::N>(x, y, chosen, windows, p);         \
    else max_forward<T, 1>(x, y, chosen, windows, p);                                                             \
  }                                                                                                               \
  KERNEL adaptive_max_pool_bwd_##name(const T* dy, const int* chosen, T* dx, long long rows, AdaptivePool p) {    \
    if (in_packs<T>(p.c, aligned(dy) && aligned(dx))) max_backward<T, Pack<T>::N>(dy, chosen, dx, rows, p);       \
    else max_backward<T, 1>(dy, chosen, dx, rows, p);                                                             \
  }                                                                                                               \
  KERNEL adaptive_max_pool_pick_##name(const T* x, const int* chosen, T* y, long long rows, AdaptivePool p) {      \
    max_pick<T>(x, chosen, y, rows, p);                                                                           \
  }                                                                                                               \
  KERNEL amax_pool_bwd_##name(const T* x, const T* y, const T* dy, T* dx, long long images, int pixels, int c) {  \
    if (in_packs<T>(c, aligned(x) && aligned(y) && aligned(dy) && aligned(dx)))                                   \
      amax_backward<T, Pack<T>::N>(x, y, dy, dx, images, pixels, c);                                              \
    else amax_backward<T, 1>(x, y, dy, dx, images, pixels, c);                                                    \
  }

ADAPTIVE_POOL(float, f32)
ADAPTIVE_POOL(half16, f16)
ADAPTIVE_POOL(bfloat16, bf16)
