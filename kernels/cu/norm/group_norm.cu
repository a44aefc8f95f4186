// Group normalization (Wu and He, 2018) of images of `pixels` rows of c channels: over all pixels and the channels of a group.
//
// Forward: one pass computes partial statistics by image, chunk of pixels and channel; a small kernel merges them by group; one pass
// applies them. Backward: one pass computes partial sums, small kernels merge them by group (for dx) and over images (for weight and
// bias), and one pass computes dx.
//
// `stats` is [images, groups, 2] floats: mean and inv = 1 / std. Weight and bias have x's type, or are floats if `f32_params`.
#include "arguments.cuh"
#include "rows.cuh"

namespace {

/// Pixels of a chunk; the last chunk of an image may have fewer.
__device__ __forceinline__ int pixels_of(const GroupNorm& s, int chunk) {
  return min(s.chunk_pixels, s.pixels - chunk * s.chunk_pixels);
}

template <typename T> __device__ __forceinline__ float parameter(const void* p, int f32_params, int j) {
  return f32_params ? static_cast<const float*>(p)[j] : to_float(static_cast<const T*>(p)[j]);
}

/// Chunk of one image with index blockIdx.x.
struct Chunk {
  int image;
  long long first;
  int pixels;
  __device__ explicit Chunk(const GroupNorm& s) {
    const int number = blockIdx.x % s.chunks;
    image = blockIdx.x / s.chunks;
    first = (long long)image * s.pixels + number * s.chunk_pixels;
    pixels = pixels_of(s, number);
  }
};

/// partial[image][chunk][2][c]: mean of a channel over a chunk, and the sum of squared deviations from it (M2).
template <typename T, int V> __device__ void statistics(const T* __restrict__ x, float* __restrict__ partial, GroupNorm s) {
  const Chunk chunk(s);
  const Tile<V> tile(s.c);
  for (int t = blockIdx.y; t < tile.count; t += gridDim.y) {
    chunk_statistics(x + chunk.first * s.c, chunk.pixels, s.c, tile, t, partial + blockIdx.x * 2ll * s.c);
  }
}

/// Merges the partial statistics of one group of one image per block.
__device__ void finalize(const float* __restrict__ partial, float eps, float* __restrict__ stats, const GroupNorm& s) {
  const int width = s.c / s.groups, image = blockIdx.x / s.groups, group = blockIdx.x % s.groups;
  const float* of_image = partial + (long long)image * s.chunks * 2 * s.c + group * width;
  const double count = (double)s.pixels * width;
  double sum = 0, m2 = 0;
  for (int i = threadIdx.x; i < s.chunks * width; i += kThreads) {
    const int chunk = i / width;
    sum += (double)pixels_of(s, chunk) * of_image[chunk * 2ll * s.c + i % width];
  }
  const double mean = block_sum(sum) / count;
  for (int i = threadIdx.x; i < s.chunks * width; i += kThreads) {
    const int chunk = i / width;
    const float* at = of_image + chunk * 2ll * s.c + i % width;
    m2 += at[s.c] + pixels_of(s, chunk) * (at[0] - mean) * (at[0] - mean);
  }
  m2 = block_sum(m2);
  if (threadIdx.x == 0) {
    stats[2ll * blockIdx.x] = (float)mean;
    stats[2ll * blockIdx.x + 1] = (float)(1.0 / sqrt(m2 / count + eps));
  }
}

template <typename T, int V>
__device__ void apply(const T* __restrict__ x, const void* weight, const void* bias, const float* __restrict__ stats,
                      T* __restrict__ y, int f32_params, GroupNorm s) {
  const Tile<V> tile(s.c);
  const Chunk chunk(s);
  for (int t = blockIdx.y; t < tile.count; t += gridDim.y) {
    const int at = tile.channel(t);
    if (at >= s.c) continue;
    float scale[V], shift[V];
#pragma unroll
    for (int k = 0; k < V; k++) {
      const float* of_group = stats + 2 * ((long long)chunk.image * s.groups + (at + k) / (s.c / s.groups));
      scale[k] = parameter<T>(weight, f32_params, at + k) * of_group[1];
      shift[k] = parameter<T>(bias, f32_params, at + k) - of_group[0] * scale[k];
    }
    for_rows<4>(
        tile.row, chunk.pixels, tile.rows, [&](int i) { return Stored<T, V>::load(x + (chunk.first + i) * s.c + at); },
        [&](int i, const Stored<T, V>& stored) {
          float v[V];
          stored.widen(v);
#pragma unroll
          for (int k = 0; k < V; k++) v[k] = fmaf(v[k], scale[k], shift[k]);
          store<V>(y + (chunk.first + i) * s.c + at, v);
        });
  }
}

/// partial[image][chunk][2][c]: sums over a chunk of dy and of dy * (x - mean).
template <typename T, int V>
__device__ void sums(const T* __restrict__ x, const T* __restrict__ dy, const float* __restrict__ stats, float* __restrict__ partial,
                     GroupNorm s) {
  const Tile<V> tile(s.c);
  const Chunk chunk(s);
  for (int t = blockIdx.y; t < tile.count; t += gridDim.y) {
    const int at = tile.channel(t);
    float totals[2 * V] = {};
    if (at < s.c) {
      float mean[V];
#pragma unroll
      for (int k = 0; k < V; k++) mean[k] = stats[2 * ((long long)chunk.image * s.groups + (at + k) / (s.c / s.groups))];
      for_rows<2>(
          tile.row, chunk.pixels, tile.rows,
          [&](int i) {
            const long long offset = (chunk.first + i) * s.c + at;
            return StoredPair<T, V>{Stored<T, V>::load(x + offset), Stored<T, V>::load(dy + offset)};
          },
          [&](int, const StoredPair<T, V>& of) {
            float v[V], g[V];
            of.x.widen(v);
            of.dy.widen(g);
#pragma unroll
            for (int k = 0; k < V; k++) {
              totals[k] += g[k];
              totals[V + k] = fmaf(g[k], v[k] - mean[k], totals[V + k]);
            }
          });
    }
    sum_over_rows(totals, tile.lanes);
    if (at < s.c && tile.row == 0) {
      float* out = partial + blockIdx.x * 2ll * s.c + at;
#pragma unroll
      for (int k = 0; k < V; k++) {
        out[k] = totals[k];
        out[s.c + k] = totals[V + k];
      }
    }
  }
}

/// factors[image][group][2]: k2 and k3 of dx = k1 * dy + k2 * x + k3; one group of one image per block.
template <typename P>
__device__ void finalize_input(const float* __restrict__ partial, const P* __restrict__ weight, const float* __restrict__ stats,
                               float* __restrict__ factors, const GroupNorm& s) {
  const int width = s.c / s.groups, image = blockIdx.x / s.groups, group = blockIdx.x % s.groups;
  const float* of_image = partial + (long long)image * s.chunks * 2 * s.c + group * width;
  double sum = 0, dot = 0;
  for (int i = threadIdx.x; i < s.chunks * width; i += kThreads) {
    const float* at = of_image + i / width * 2ll * s.c + i % width;
    const float w = to_float(weight[group * width + i % width]);
    sum += w * at[0];
    dot += w * at[s.c];
  }
  sum = block_sum(sum);
  dot = block_sum(dot);
  if (threadIdx.x == 0) {
    const double mean = stats[2ll * blockIdx.x], inv = stats[2ll * blockIdx.x + 1], count = (double)s.pixels * width;
    const double k2 = -inv * inv * inv * dot / count;
    factors[2ll * blockIdx.x] = (float)k2;
    factors[2ll * blockIdx.x + 1] = (float)(-inv * sum / count - k2 * mean);
  }
}

/// Gradients of weight and bias (null: not wanted): sums over all images and chunks.
template <typename P>
__device__ void finalize_parameters(const float* __restrict__ partial, const float* __restrict__ stats, P* dweight, P* dbias, const GroupNorm& s) {
  const int j = blockIdx.x * kMergeLanes + threadIdx.x % kMergeLanes;
  double weight = 0, bias = 0;
  for (int i = threadIdx.x / kMergeLanes; i < s.images * s.chunks && j < s.c; i += kThreads / kMergeLanes) {
    const float inv = stats[2 * ((long long)(i / s.chunks) * s.groups + j / (s.c / s.groups)) + 1];
    bias += partial[i * 2ll * s.c + j];
    weight += inv * partial[i * 2ll * s.c + s.c + j];
  }
  weight = merge(weight);
  bias = merge(bias);
  if (threadIdx.x >= kMergeLanes || j >= s.c) return;
  if (dweight) dweight[j] = from_float<P>((float)weight);
  if (dbias) dbias[j] = from_float<P>((float)bias);
}

template <typename T, int V>
__device__ void input_gradient(const T* __restrict__ x, const T* __restrict__ dy, const void* weight, const float* __restrict__ stats,
                               const float* __restrict__ factors, T* __restrict__ dx, int f32_params, GroupNorm s) {
  const Tile<V> tile(s.c);
  const Chunk chunk(s);
  for (int t = blockIdx.y; t < tile.count; t += gridDim.y) {
    const int at = tile.channel(t);
    if (at >= s.c) continue;
    float k1[V], k2[V], k3[V];
#pragma unroll
    for (int k = 0; k < V; k++) {
      const long long group = (long long)chunk.image * s.groups + (at + k) / (s.c / s.groups);
      k1[k] = parameter<T>(weight, f32_params, at + k) * stats[2 * group + 1];
      k2[k] = factors[2 * group];
      k3[k] = factors[2 * group + 1];
    }
    for_rows<2>(
        tile.row, chunk.pixels, tile.rows,
        [&](int i) {
          const long long offset = (chunk.first + i) * s.c + at;
          return StoredPair<T, V>{Stored<T, V>::load(x + offset), Stored<T, V>::load(dy + offset)};
        },
        [&](int i, const StoredPair<T, V>& of) {
          float v[V], g[V];
          of.x.widen(v);
          of.dy.widen(g);
#pragma unroll
          for (int k = 0; k < V; k++) g[k] = fmaf(k1[k], g[k], fmaf(k2[k], v[k], k3[k]));
          store<V>(dx + (chunk.first + i) * s.c + at, g);
        });
  }
}

}  // namespace

KERNEL group_norm_finalize_f32(const float* partial, float eps, float* stats, GroupNorm s) { finalize(partial, eps, stats, s); }

#define GROUP_NORM(T, name)                                                                                                 \
  KERNEL group_norm_statistics_##name(const T* x, float* partial, GroupNorm s) {                                            \
    if (in_packs<T>(s.c, aligned(x))) statistics<T, Pack<T>::N>(x, partial, s);                                             \
    else statistics<T, 1>(x, partial, s);                                                                                   \
  }                                                                                                                         \
  KERNEL group_norm_fwd_##name(const T* x, const void* weight, const void* bias, const float* stats, T* y, int f32_params,  \
                               GroupNorm s) {                                                                               \
    if (in_packs<T>(s.c, aligned(x) && aligned(y))) apply<T, Pack<T>::N>(x, weight, bias, stats, y, f32_params, s);         \
    else apply<T, 1>(x, weight, bias, stats, y, f32_params, s);                                                             \
  }                                                                                                                         \
  KERNEL group_norm_sums_bwd_##name(const T* x, const T* dy, const float* stats, float* partial, GroupNorm s) {             \
    if (in_packs<T>(s.c, aligned(x) && aligned(dy))) sums<T, Pack<T>::N>(x, dy, stats, partial, s);                         \
    else sums<T, 1>(x, dy, stats, partial, s);                                                                              \
  }                                                                                                                         \
  KERNEL group_norm_input_bwd_##name(const float* partial, const T* weight, const float* stats, float* factors,             \
                                     GroupNorm s) {                                                                         \
    finalize_input<T>(partial, weight, stats, factors, s);                                                                  \
  }                                                                                                                         \
  KERNEL group_norm_parameters_bwd_##name(const float* partial, const float* stats, T* dweight, T* dbias, GroupNorm s) {    \
    finalize_parameters<T>(partial, stats, dweight, dbias, s);                                                              \
  }                                                                                                                         \
  KERNEL group_norm_bwd_##name(const T* x, const T* dy, const void* weight, const float* stats, const float* factors,       \
                               T* dx, int f32_params, GroupNorm s) {                                                        \
    if (in_packs<T>(s.c, aligned(x) && aligned(dy) && aligned(dx)))                                                         \
      input_gradient<T, Pack<T>::N>(x, dy, weight, stats, factors, dx, f32_params, s);                                      \
    else input_gradient<T, 1>(x, dy, weight, stats, factors, dx, f32_params, s);                                            \
  }

GROUP_NORM(float, f32)
GROUP_NORM(half16, f16)
GROUP_NORM(bfloat16, bf16)
