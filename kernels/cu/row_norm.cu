// Layer norm (Ba et al., 2016) and RMS norm (Zhang and Sennrich, 2019) of rows of n elements: y = (x - mean) * inv * weight + bias
// with inv = 1 / sqrt(mean((x - mean)^2) + eps); RMS norm uses mean = 0. Short rows are reduced by a warp each, long ones by a block.
//
// `stats` is [rows, 2] floats: mean and inv. Weight and bias have x's type, or are floats if `f32_params`; either may be null.
#include "rows.cuh"

namespace {

/// Loads V parameters as floats, starting at j.
template <int V, typename T> __device__ __forceinline__ void load_parameter(const void* p, int f32_params, int j, float (&to)[V]) {
  const float* floats = static_cast<const float*>(p);
  const T* same = static_cast<const T*>(p);
#pragma unroll
  for (int k = 0; k < V; k++) to[k] = f32_params ? floats[j + k] : to_float(same[j + k]);
}

template <typename T, int V, int W>
__device__ void forward(const T* __restrict__ x, const void* weight, const void* bias, T* __restrict__ y, float* __restrict__ stats,
                        long long rows, int n, int centre, float eps, int f32_params) {
  const Team<W> team;
  for (long long row = team.first; row < rows; row += team.step) {
    const T* from = x + row * n;
    float mean = 0;
    if (centre) {
      for (int i = team.thread * V; i < n; i += Team<W>::kSize * V) {
        float v[V];
        load<V>(from + i, v);
#pragma unroll
        for (int k = 0; k < V; k++) mean += v[k];
      }
      mean = team.sum(mean) / n;
    }
    float square = 0;
    for (int i = team.thread * V; i < n; i += Team<W>::kSize * V) {
      float v[V];
      load<V>(from + i, v);
#pragma unroll
      for (int k = 0; k < V; k++) square = fmaf(v[k] - mean, v[k] - mean, square);
    }
    const float inv = 1.0f / sqrtf(team.sum(square) / n + eps);
    for (int i = team.thread * V; i < n; i += Team<W>::kSize * V) {
      float v[V], p[V];
      load<V>(from + i, v);
#pragma unroll
      for (int k = 0; k < V; k++) v[k] = (v[k] - mean) * inv;
      if (weight) {
        load_parameter<V, T>(weight, f32_params, i, p);
#pragma unroll
        for (int k = 0; k < V; k++) v[k] *= p[k];
      }
      if (bias) {
        load_parameter<V, T>(bias, f32_params, i, p);
#pragma unroll
        for (int k = 0; k < V; k++) v[k] += p[k];
      }
      store<V>(y + row * n + i, v);
    }
    if (team.thread == 0) {
      stats[2 * row] = mean;
      stats[2 * row + 1] = inv;
    }
  }
}

/// dx = inv * (g - mean(g) - (x - mean) * inv^2 * mean(g (x - mean))) with g = dy * weight; without mean(g) for RMS norm.
template <typename T, int V, int W>
__device__ void backward(const T* __restrict__ x, const T* __restrict__ dy, const void* weight, const float* __restrict__ stats,
                         T* __restrict__ dx, long long rows, int n, int centre, int f32_params) {
  const Team<W> team;
  for (long long row = team.first; row < rows; row += team.step) {
    const float mean = stats[2 * row], inv = stats[2 * row + 1];
    float sum = 0, dot = 0;
    for (int i = team.thread * V; i < n; i += Team<W>::kSize * V) {
      float v[V], g[V], w[V];
      load<V>(x + row * n + i, v);
      load<V>(dy + row * n + i, g);
      if (weight) load_parameter<V, T>(weight, f32_params, i, w);
#pragma unroll
      for (int k = 0; k < V; k++) {
        if (weight) g[k] *= w[k];
        sum += g[k];
        dot = fmaf(g[k], v[k] - mean, dot);
      }
    }
    sum = centre ? team.sum(sum) / n : 0;
    dot = team.sum(dot) * inv * inv / n;
    for (int i = team.thread * V; i < n; i += Team<W>::kSize * V) {
      float v[V], g[V], w[V];
      load<V>(x + row * n + i, v);
      load<V>(dy + row * n + i, g);
      if (weight) load_parameter<V, T>(weight, f32_params, i, w);
#pragma unroll
      for (int k = 0; k < V; k++) {
        if (weight) g[k] *= w[k];
        g[k] = inv * (g[k] - sum - (v[k] - mean) * dot);
      }
      store<V>(dx + row * n + i, g);
    }
  }
}

/// partial[chunk][2][n]: sums over a chunk's rows of dy * (x - mean) * inv and of dy.
template <typename T, int V>
__device__ void parameter_sums(const T* __restrict__ x, const T* __restrict__ dy, const float* __restrict__ stats,
                               float* __restrict__ partial, long long rows, int n, int chunk_rows) {
  const Tile<V> tile(n);
  const long long first = (long long)blockIdx.y * chunk_rows, last = min(first + chunk_rows, rows);
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const int at = tile.channel(t);
    float sums[2 * V] = {};
    if (at < n) {
      for (long long row = first + tile.row; row < last; row += tile.rows) {
        const float mean = stats[2 * row], inv = stats[2 * row + 1];
        float v[V], g[V];
        load<V>(x + row * n + at, v);
        load<V>(dy + row * n + at, g);
#pragma unroll
        for (int k = 0; k < V; k++) {
          sums[k] = fmaf(g[k], (v[k] - mean) * inv, sums[k]);
          sums[V + k] += g[k];
        }
      }
    }
    sum_over_rows(sums, tile.lanes);
    if (at < n && tile.row == 0) {
      float* out = partial + blockIdx.y * 2ll * n + at;
#pragma unroll
      for (int k = 0; k < V; k++) {
        out[k] = sums[k];
        out[n + k] = sums[V + k];
      }
    }
  }
}

/// Merges the partial sums into the gradients of weight and bias; null if not wanted.
template <typename P>
__device__ void finalize(const float* __restrict__ partial, int chunks, int n, P* dweight, P* dbias) {
  const int j = blockIdx.x * kMergeLanes + threadIdx.x % kMergeLanes;
  double weight = 0, bias = 0;
  for (int i = threadIdx.x / kMergeLanes; i < chunks && j < n; i += kThreads / kMergeLanes) {
    weight += partial[i * 2ll * n + j];
    bias += partial[i * 2ll * n + n + j];
  }
  weight = merge(weight);
  bias = merge(bias);
  if (threadIdx.x >= kMergeLanes || j >= n) return;
  if (dweight) dweight[j] = from_float<P>((float)weight);
  if (dbias) dbias[j] = from_float<P>((float)bias);
}

}  // namespace

#define ROW_NORM(T, name)                                                                                                    \
  KERNEL row_norm_fwd_##name(const T* x, const void* weight, const void* bias, T* y, float* stats, long long rows, int n,    \
                             int centre, float eps, int f32_params, int is_long) {                                           \
    const bool packs = in_packs<T>(n, aligned(x) && aligned(y));                                                             \
    if (packs && is_long) forward<T, Pack<T>::N, kLong>(x, weight, bias, y, stats, rows, n, centre, eps, f32_params);        \
    else if (packs) forward<T, Pack<T>::N, 1>(x, weight, bias, y, stats, rows, n, centre, eps, f32_params);                  \
    else if (is_long) forward<T, 1, kLong>(x, weight, bias, y, stats, rows, n, centre, eps, f32_params);                     \
    else forward<T, 1, 1>(x, weight, bias, y, stats, rows, n, centre, eps, f32_params);                                      \
  }                                                                                                                          \
  KERNEL row_norm_bwd_##name(const T* x, const T* dy, const void* weight, const float* stats, T* dx, long long rows, int n,  \
                             int centre, int f32_params, int is_long) {                                                      \
    const bool packs = in_packs<T>(n, aligned(x) && aligned(dy) && aligned(dx));                                             \
    if (packs && is_long) backward<T, Pack<T>::N, kLong>(x, dy, weight, stats, dx, rows, n, centre, f32_params);             \
    else if (packs) backward<T, Pack<T>::N, 1>(x, dy, weight, stats, dx, rows, n, centre, f32_params);                       \
    else if (is_long) backward<T, 1, kLong>(x, dy, weight, stats, dx, rows, n, centre, f32_params);                          \
    else backward<T, 1, 1>(x, dy, weight, stats, dx, rows, n, centre, f32_params);                                           \
  }                                                                                                                          \
  KERNEL row_norm_sums_bwd_##name(const T* x, const T* dy, const float* stats, float* partial, long long rows, int n,        \
                                  int chunk_rows) {                                                                          \
    if (in_packs<T>(n, aligned(x) && aligned(dy)))                                                                           \
      parameter_sums<T, Pack<T>::N>(x, dy, stats, partial, rows, n, chunk_rows);                                             \
    else parameter_sums<T, 1>(x, dy, stats, partial, rows, n, chunk_rows);                                                   \
  }                                                                                                                          \
  KERNEL row_norm_finalize_bwd_##name(const float* partial, int chunks, int n, T* dweight, T* dbias) {                       \
    finalize<T>(partial, chunks, n, dweight, dbias);                                                                         \
  }

ROW_NORM(float, f32)
ROW_NORM(half16, f16)
ROW_NORM(bfloat16, bf16)
