// Max and average pooling of channels-last images [n, h, w, c]. Backward passes gather: each input pixel sums over the windows that
// cover it, so that no two threads write the same element.
//
// A thread handles V channels of one pixel; blockIdx.x strides over the pixels of a row, blockIdx.y over the rows of all images.
#include "pool.cuh"

namespace {

/// 1 / divisor of window `i` of an average along an axis.
__device__ float inverse_divisor(const Pool& p, int axis, int i) {
  const int start = i * p.stride[axis] - p.padding[axis], end = start + p.kernel[axis];
  const int inside = min(end, p.size[axis]) - max(start, 0);
  const int divisor = p.count_include_pad ? min(end, p.size[axis] + p.padding[axis]) - start : inside;
  return inside > 0 ? 1.0f / divisor : 0;
}

/// Maximum of each window, and its tap.
template <typename T, int V>
__device__ void max_forward(const T* __restrict__ x, T* __restrict__ y, unsigned char* __restrict__ index, long long rows, Pool p) {
  FOR_PIXELS(V, rows, p.out[1], p.c) {
    window_maximum<T, V>(x, y, index, p, row, i, [](float (&)[V]) {});
  }
}

/// dx: the sum of dy over the windows whose maximum is this pixel.
template <typename T, int V>
__device__ void max_backward(const T* __restrict__ dy, const unsigned char* __restrict__ index, T* __restrict__ dx, long long rows,
                             Pool p) {
  FOR_PIXELS(V, rows, p.size[1], p.c) {
    const int ix = i / packs, j = (i - ix * packs) * V;
    float sum[V];
    gather_maxima<T, V>(dy, index, p, row, ix, j, sum);
    store<V>(dx + (row * p.size[1] + ix) * p.c + j, sum);
  }
}

/// For each window the pixel that was its maximum; 0 for a window without pixels.
template <typename T>
__device__ void max_pick(const T* __restrict__ x, const unsigned char* __restrict__ index, T* __restrict__ y, long long rows, Pool p) {
  FOR_PIXELS(1, rows, p.out[1], p.c) {
    const int ox = i / packs, j = i - ox * packs, oy = (int)(row % p.out[0]);
    const long long at = row * p.out[1] * p.c + i;
    const int tap = index[at], ty = tap / p.kernel[1], tx = tap - ty * p.kernel[1];
    const int iy = oy * p.stride[0] - p.padding[0] + ty * p.dilation[0], ix = ox * p.stride[1] - p.padding[1] + tx * p.dilation[1];
    const bool inside = iy >= 0 && iy < p.size[0] && ix >= 0 && ix < p.size[1];
    const long long image = row / p.out[0] * p.size[0] * p.size[1];
    y[at] = inside ? x[(image + (long long)iy * p.size[1] + ix) * p.c + j] : T{};
  }
}

template <typename T, int V>
__device__ void avg_forward(const T* __restrict__ x, T* __restrict__ y, long long rows, Pool p) {
  FOR_PIXELS(V, rows, p.out[1], p.c) {
    const int ox = i / packs, j = (i - ox * packs) * V, oy = (int)(row % p.out[0]);
    const T* image = x + row / p.out[0] * p.size[0] * p.size[1] * p.c + j;
    const Window vertical(p, 0, oy), horizontal(p, 1, ox);
    float sum[V] = {};
    for (int ty = vertical.first; ty < vertical.last; ty++) {
      const T* line = image + (long long)(vertical.start + ty) * p.size[1] * p.c;
      for (int tx = horizontal.first; tx < horizontal.last; tx++) {
        float v[V];
        load<V>(line + (long long)(horizontal.start + tx) * p.c, v);
#pragma unroll
        for (int k = 0; k < V; k++) sum[k] += v[k];
      }
    }
    const float scale = inverse_divisor(p, 0, oy) * inverse_divisor(p, 1, ox);
#pragma unroll
    for (int k = 0; k < V; k++) sum[k] *= scale;
    store<V>(y + (row * p.out[1] + ox) * p.c + j, sum);
  }
}

/// dx: the sum of dy / divisor over the windows that cover the pixel.
template <typename T, int V>
__device__ void avg_backward(const T* __restrict__ dy, T* __restrict__ dx, long long rows, Pool p) {
  FOR_PIXELS(V, rows, p.size[1], p.c) {
    const int ix = i / packs, j = (i - ix * packs) * V, iy = (int)(row % p.size[0]);
    const T* image = dy + row / p.size[0] * p.out[0] * p.out[1] * p.c + j;
    const Cover vertical(p, 0, iy), horizontal(p, 1, ix);
    float sum[V] = {};
    for (int oy = vertical.first; oy <= vertical.last; oy++) {
      for (int ox = horizontal.first; ox <= horizontal.last; ox++) {
        const float scale = inverse_divisor(p, 0, oy) * inverse_divisor(p, 1, ox);
        float g[V];
        load<V>(image + ((long long)oy * p.out[1] + ox) * p.c, g);
#pragma unroll
        for (int k = 0; k < V; k++) sum[k] = fmaf(g[k], scale, sum[k]);
      }
    }
    store<V>(dx + (row * p.size[1] + ix) * p.c + j, sum);
  }
}

}  // namespace

#define POOL(T, name)                                                                                                         \
  KERNEL max_pool_fwd_##name(const T* x, T* y, unsigned char* index, long long rows, Pool p) {                                \
    if (in_packs<T>(p.c, aligned(x) && aligned(y) && aligned(index))) max_forward<T, Pack<T>::N>(x, y, index, rows, p);       \
    else max_forward<T, 1>(x, y, index, rows, p);                                                                             \
  }                                                                                                                           \
  KERNEL max_pool_bwd_##name(const T* dy, const unsigned char* index, T* dx, long long rows, Pool p) {                        \
    if (in_packs<T>(p.c, aligned(dy) && aligned(dx) && aligned(index))) max_backward<T, Pack<T>::N>(dy, index, dx, rows, p);  \
    else max_backward<T, 1>(dy, index, dx, rows, p);                                                                          \
  }                                                                                                                           \
  KERNEL max_pool_pick_##name(const T* x, const unsigned char* index, T* y, long long rows, Pool p) {                         \
    max_pick<T>(x, index, y, rows, p);                                                                                        \
  }                                                                                                                           \
  KERNEL avg_pool_fwd_##name(const T* x, T* y, long long rows, Pool p) {                                                      \
    if (in_packs<T>(p.c, aligned(x) && aligned(y))) avg_forward<T, Pack<T>::N>(x, y, rows, p);                                \
    else avg_forward<T, 1>(x, y, rows, p);                                                                                    \
  }                                                                                                                           \
  KERNEL avg_pool_bwd_##name(const T* dy, T* dx, long long rows, Pool p) {                                                    \
    if (in_packs<T>(p.c, aligned(dy) && aligned(dx))) avg_backward<T, Pack<T>::N>(dy, dx, rows, p);                           \
    else avg_backward<T, 1>(dy, dx, rows, p);                                                                                 \
  }

POOL(float, f32)
POOL(half16, f16)
POOL(bfloat16, bf16)
