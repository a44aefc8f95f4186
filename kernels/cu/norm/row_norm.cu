// Layer norm (Ba et al., 2016) and RMS norm (Zhang and Sennrich, 2019) of rows of n elements: y = (x - mean) * inv * weight + bias
// with inv = 1 / sqrt(mean((x - mean)^2) + eps); RMS norm uses mean = 0. Short rows are reduced by a warp each, long ones by a block.
//
// `stats` is [rows, 2] floats: mean and inv. Weight and bias have x's type, or are floats if `f32_params`; either may be null.
#include "rows.cuh"

namespace {

/// Loads V parameters as floats, starting at j.
template <int V, typename T> __device__ __forceinline__ void load_parameter(const void* p, int f32_params, int j, float (&to)[V]) {
  if (f32_params) load_floats<V>(static_cast<const float*>(p) + j, to);
  else load<V>(static_cast<const T*>(p) + j, to);
}

template <typename T, int V, int W>
__device__ void forward(const T* __restrict__ x, const void* weight, const void* bias, T* __restrict__ y, float* __restrict__ stats,
                        long long rows, int n, int centre, float eps, int f32_params) {
  const Team<W> team;
  constexpr int kStep = Team<W>::kSize * V;
  for (long long row = team.first; row < rows; row += team.step) {
    const auto load_x = [&](int i) { return Stored<T, V>::load(x + row * n + i); };
    float mean = 0;
    if (centre) {
      for_few<4>(team.thread * V, n, kStep, load_x, [&](int, const Stored<T, V>& stored) {
        float v[V];
        stored.widen(v);
#pragma unroll
        for (int k = 0; k < V; k++) mean += v[k];
      });
      mean = team.sum(mean) / n;
    }
    float square = 0;
    for_few<4>(team.thread * V, n, kStep, load_x, [&](int, const Stored<T, V>& stored) {
      float v[V];
      stored.widen(v);
#pragma unroll
      for (int k = 0; k < V; k++) square = fmaf(v[k] - mean, v[k] - mean, square);
    });
    const float inv = 1.0f / sqrtf(team.sum(square) / n + eps);
    for_few<4>(team.thread * V, n, kStep, load_x, [&](int i, const Stored<T, V>& stored) {
      float v[V], p[V];
      stored.widen(v);
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
    });
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
  constexpr int kStep = Team<W>::kSize * V;
  for (long long row = team.first; row < rows; row += team.step) {
    const float mean = stats[2 * row], inv = stats[2 * row + 1];
    const auto load_pair = [&](int i) {
      return StoredPair<T, V>{Stored<T, V>::load(x + row * n + i), Stored<T, V>::load(dy + row * n + i)};
    };
    float sum = 0, dot = 0;
    for_few<2>(team.thread * V, n, kStep, load_pair, [&](int i, const StoredPair<T, V>& of) {
      float v[V], g[V], w[V];
      of.x.widen(v);
      of.dy.widen(g);
      if (weight) load_parameter<V, T>(weight, f32_params, i, w);
#pragma unroll
      for (int k = 0; k < V; k++) {
        if (weight) g[k] *= w[k];
        sum += g[k];
        dot = fmaf(g[k], v[k] - mean, dot);
      }
    });
    sum = centre ? team.sum(sum) / n : 0;
    dot = team.sum(dot) * inv * inv / n;
    for_few<2>(team.thread * V, n, kStep, load_pair, [&](int i, const StoredPair<T, V>& of) {
      float v[V], g[V], w[V];
      of.x.widen(v);
      of.dy.widen(g);
      if (weight) load_parameter<V, T>(weight, f32_params, i, w);
#pragma unroll
      for (int k = 0; k < V; k++) {
        if (weight) g[k] *= w[k];
        g[k] = inv * (g[k] - sum - (v[k] - mean) * dot);
      }
      store<V>(dx + row * n + i, g);
    });
  }
}

/// partial[chunk][2][n]: sums over a chunk's rows of dy * (x - mean) * inv and of dy.
template <typename T, int V>
__device__ void parameter_sums(const T* __restrict__ x, const T* __restrict__ dy, const float* __restrict__ stats,
                               float* __restrict__ partial, long long rows, int n, int chunk_rows) {
  struct Loaded {
    StoredPair<T, V> pair;
    float mean, inv;
  };
  const Tile<V> tile(n);
  const long long first = (long long)blockIdx.y * chunk_rows, last = min(first + chunk_rows, rows);
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const int at = tile.channel(t);
    float sums[2 * V] = {};
    if (at < n) {
      for_rows<2>(
          first + tile.row, last, tile.rows,
          [&](long long row) {
            const StoredPair<T, V> pair = {Stored<T, V>::load(x + row * n + at), Stored<T, V>::load(dy + row * n + at)};
            return Loaded{pair, stats[2 * row], stats[2 * row + 1]};
          },
          [&](long long, const Loaded& of) {
            float v[V], g[V];
            of.pair.x.widen(v);
            of.pair.dy.widen(g);
#pragma unroll
            for (int k = 0; k < V; k++) {
              sums[k] = fmaf(g[k], (v[k] - of.mean) * of.inv, sums[k]);
              sums[V + k] += g[k];
            }
          });
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
    const bool packs = in_packs<T>(n, aligned(x) && aligned(y) && aligned(weight) && aligned(bias));                         \
    if (packs && is_long) forward<T, Pack<T>::N, kLong>(x, weight, bias, y, stats, rows, n, centre, eps, f32_params);        \
    else if (packs) forward<T, Pack<T>::N, 1>(x, weight, bias, y, stats, rows, n, centre, eps, f32_params);                  \
    else if (is_long) forward<T, 1, kLong>(x, weight, bias, y, stats, rows, n, centre, eps, f32_params);                     \
    else forward<T, 1, 1>(x, weight, bias, y, stats, rows, n, centre, eps, f32_params);                                      \
  }                                                                                                                          \
  KERNEL row_norm_bwd_##name(const T* x, const T* dy, const void* weight, const float* stats, T* dx, long long rows, int n,  \
                             int centre, int f32_params, int is_long) {                                                      \
    const bool packs = in_packs<T>(n, aligned(x) && aligned(dy) && aligned(dx) && aligned(weight));                          \
    if (packs && is_long) backward<T, Pack<T>::N, kLong>(x, dy, weight, stats, dx, rows, n, centre, f32_params);             \
    else if (packs) backward<T, Pack<T>::N, 1>(x, dy, weight, stats, dx, rows, n, centre, f32_params);                       \
    else if (is_long) backward<T, 1, kLong>(x, dy, weight, stats, dx, rows, n, centre, f32_params);                          \
    else backward<T, 1, 1>(x, dy, weight, stats, dx, rows, n, centre, f32_params);                                           \
  }                                                                                                                          \
  SINGLE_WAVE_KERNEL row_norm_sums_bwd_##name(const T* x, const T* dy, const float* stats, float* partial, long long rows,   \
                                              int n, int chunk_rows) {                                                       \
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
