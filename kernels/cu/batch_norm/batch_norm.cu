// Batch normalization of rows of channels (Ioffe and Szegedy, 2015), fused with an activation and a residual.
//
// Forward: one pass computes partial statistics over chunks of rows, merges them, and folds mean, variance, weight and bias into a scale
// and a shift; one pass applies these. Backward: one pass computes the sums of d = dy * f' and d * (x - mean) and merges them, and one
// pass computes dx = k1 * d + k2 * x + k3. Chunks depend on the shape alone and are merged in order.
//
// Both backward passes need the derivative f'. Without a residual they recompute it from x, which they read anyway: the passes move
// x, dy and x, dy, dx, the minimum. With a residual, recomputing would read the residual again. For ReLU and ReLU6 the forward pass
// therefore stores one bit per element, 1/32 of an f32 tensor. The first backward pass then reads x, dy and the bits and writes d, the
// residual's gradient; the second reads x and d and writes dx.
//
// `saved` is [4, c] floats: mean, 1 / std, scale = weight / std, shift = bias - mean * scale.
#include "batch_norm_activation.cuh"
#include "batch_norm_sums.cuh"

namespace {

/// Mean over rows, and sum of squared deviations from it (M2).
struct Moments {
  double mean, m2;
};

/// Moments of a channel over `rows` rows from those of `count` parts of `part_rows` rows each (the last may have fewer), which are at
/// from[part][2][c].
template <typename F>
__device__ Moments merge_moments(const MergeThread& at, const F* from, int count, long long part_rows, long long rows, int c) {
  double sum = 0, m2 = 0;
  for (int i = at.slice; i < count && at.channel < c; i += at.slices) {
    sum += (double)min(part_rows, rows - i * part_rows) * from[i * 2ll * c + at.channel];
  }
  const double mean = at.sum(sum) / rows;
  for (int i = at.slice; i < count && at.channel < c; i += at.slices) {
    const double n = min(part_rows, rows - i * part_rows), distance = from[i * 2ll * c + at.channel] - mean;
    m2 += from[i * 2ll * c + c + at.channel] + n * distance * distance;
  }
  return {mean, at.sum(m2)};
}

/// Saves a channel's statistics, and updates the running ones, if any.
template <typename P> __device__ void save_moments(const StatisticsMerge& m, const Moments& of, long long rows, int c, int j) {
  save_channel(m.saved, c, j, of.mean, of.m2 / rows, m.eps, static_cast<const P*>(m.weight), static_cast<const P*>(m.bias));
  if (!m.running_mean) return;
  const float momentum = average_factor(m.batches, m.momentum);
  update_running(static_cast<P*>(m.running_mean) + j, momentum, of.mean);
  update_running(static_cast<P*>(m.running_var) + j, momentum, of.m2 / (rows - 1));
}

template <bool kMomentsOnly>
__device__ void save_moments(const MergeThread& at, const StatisticsMerge& m, const Moments& of, long long rows, int c) {
  if (at.slice != 0 || at.channel >= c) return;
  if (kMomentsOnly) return store_moments(m.saved, c, at.channel, of.mean, of.m2, rows);
  switch (m.format) {
    case kF32: return save_moments<float>(m, of, rows, c, at.channel);
    case kF16: return save_moments<half16>(m, of, rows, c, at.channel);
    case kBf16: return save_moments<bfloat16>(m, of, rows, c, at.channel);
  }
}

/// Computes the batch's statistics, or with kMomentsOnly the moments (`store_moments`) of a rank, which are merged with those of other ranks.
template <typename T, int V, bool kMomentsOnly>
__device__ void statistics(const T* __restrict__ x, const StatisticsMerge& m, long long rows, int c, int chunk_rows) {
  const Tile<V> tile(c);
  const long long first = (long long)blockIdx.y * chunk_rows;
  const int n = (int)min((long long)chunk_rows, rows - first);
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    chunk_statistics(x + first * c, n, c, tile, t, m.partial + blockIdx.y * 2ll * c);
  }
  const ColumnMerge column(m.tickets);
  if (!column.merges_group()) return;
  const long long group_rows = (long long)kMergeGroup * chunk_rows, group_first = column.group * group_rows;
  const long long own_rows = min(group_rows, rows - group_first);
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const MergeThread at(tile, t);
    const Moments of = merge_moments(at, m.partial + column.first * 2ll * c, column.count, chunk_rows, own_rows, c);
    if (column.groups == 1) {
      save_moments<kMomentsOnly>(at, m, of, rows, c);
    } else if (at.slice == 0 && at.channel < c) {
      m.merged[column.group * 2ll * c + at.channel] = of.mean;
      m.merged[column.group * 2ll * c + c + at.channel] = of.m2;
    }
  }
  if (column.groups == 1 || !column.merges_column()) return;
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const MergeThread at(tile, t);
    save_moments<kMomentsOnly>(at, m, merge_moments(at, m.merged, column.groups, group_rows, rows, c), rows, c);
  }
}

/// y = f(x * scale + shift + residual)
template <typename T, int V, bool kHasResidual>
__device__ void apply(const T* __restrict__ x, const float* __restrict__ saved, const T* __restrict__ residual,
                      T* __restrict__ y, long long rows, int c, int chunk_rows, int f) {
  struct Loaded {
    Stored<T, V> x, residual;
  };
  const Tile<V> tile(c);
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const int at = tile.channel(t);
    if (at >= c) continue;
    float scale[V], shift[V];
    load_floats(saved + 2 * c + at, scale);
    load_floats(saved + 3 * c + at, shift);
    for_rows_backwards<kHasResidual ? 2 : 4>(
        tile, rows, chunk_rows,
        [&](long long row) {
          Loaded of;
          of.x = Stored<T, V>::load(x + row * c + at);
          if constexpr (kHasResidual) of.residual = Stored<T, V>::load(residual + row * c + at);
          return of;
        },
        [&](long long row, const Loaded& of) {
          float v[V], r[V] = {};
          of.x.widen(v);
          if constexpr (kHasResidual) of.residual.widen(r);
#pragma unroll
          for (int k = 0; k < V; k++) v[k] = fmaf(v[k], scale[k], shift[k]) + r[k];
          activate(f, v);
          store<V>(y + row * c + at, v);
        });
  }
}

/// Sums over the rows of d and of d * (x - mean). Also writes d unless it is null; d may alias dy.
template <typename T, int V, bool kHasResidual>
__device__ void sums(const T* __restrict__ x, const T* dy, const T* __restrict__ residual, const float* __restrict__ saved,
                     T* d, const SumsMerge& m, long long rows, int c, int chunk_rows, int f) {
  struct Loaded {
    Stored<T, V> x, dy, residual;
  };
  const Tile<V> tile(c);
  const long long first = (long long)blockIdx.y * chunk_rows;
  const int n = (int)min((long long)chunk_rows, rows - first);
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const int at = tile.channel(t);
    float totals[2 * V] = {};
    if (at < c) {
      float mean[V], scale[V], shift[V];
      load_floats(saved + at, mean);
      load_floats(saved + 2 * c + at, scale);
      load_floats(saved + 3 * c + at, shift);
      for_rows<2>(
          tile.row, n, tile.rows,
          [&](int row) {
            const long long i = (first + row) * c + at;
            Loaded of;
            of.x = Stored<T, V>::load(x + i);
            of.dy = Stored<T, V>::load(dy + i);
            if constexpr (kHasResidual) of.residual = Stored<T, V>::load(residual + i);
            return of;
          },
          [&](int row, const Loaded& of) {
            float v[V], g[V], r[V] = {};
            of.x.widen(v);
            of.dy.widen(g);
            if constexpr (kHasResidual) of.residual.widen(r);
            if (f != kIdentity) multiply_by_derivative(f, v, scale, shift, r, g);
            if (d) store<V>(d + (first + row) * c + at, g);
#pragma unroll
            for (int k = 0; k < V; k++) {
              totals[k] += g[k];
              totals[V + k] = fmaf(g[k], v[k] - mean[k], totals[V + k]);
            }
          });
    }
    sum_over_rows(totals, tile.lanes);
    if (at < c && tile.row == 0) store_sums(m, c, at, totals);
  }
  finish_sums(tile, m, saved, rows, c);
}

/// `apply` for ReLU and ReLU6 with a residual; also writes the mask, whose bits are the derivative (0 or 1).
template <typename T, bool kPacked>
__device__ void apply_masked(const T* __restrict__ x, const float* __restrict__ saved, const T* __restrict__ residual,
                             T* __restrict__ y, unsigned char* __restrict__ mask, long long rows, int c, int chunk_rows, int f) {
  struct Loaded {
    Stored<T, kBits> x, residual;
  };
  const Tile<kBits> tile(c);
  const long long bytes = (c + kBits - 1) / kBits;
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const int at = tile.channel(t), n = c - at;
    if (n <= 0) continue;
    float scale[kBits], shift[kBits];
    load_eight<kPacked>(saved + 2 * c + at, n, scale);
    load_eight<kPacked>(saved + 3 * c + at, n, shift);
    for_rows_backwards<2>(
        tile, rows, chunk_rows,
        [&](long long row) {
          const long long i = row * c + at;
          return Loaded{load_eight<kPacked>(x + i, n), load_eight<kPacked>(residual + i, n)};
        },
        [&](long long row, const Loaded& of) {
          float v[kBits], r[kBits];
          of.x.widen(v);
          of.residual.widen(r);
          unsigned bits = 0;
#pragma unroll
          for (int k = 0; k < kBits; k++) {
            v[k] = fmaf(v[k], scale[k], shift[k]) + r[k];
            bits |= (unsigned)(v[k] > 0 && (f == kRelu || v[k] < 6)) << k;
          }
          mask[row * bytes + at / kBits] = (unsigned char)bits;
          activate(f, v);
          store_eight<kPacked>(y + row * c + at, n, v);
        });
  }
}

/// `sums` with d = dy where the mask's bit is set, else 0.
template <typename T, bool kPacked>
__device__ void sums_masked(const T* __restrict__ x, const T* dy, const unsigned char* __restrict__ mask,
                            const float* __restrict__ saved, T* d, const SumsMerge& m, long long rows, int c, int chunk_rows) {
  struct Loaded {
    Stored<T, kBits> x;
    MaskedGradient<T> d;
  };
  const Tile<kBits> tile(c);
  const long long first = (long long)blockIdx.y * chunk_rows, bytes = (c + kBits - 1) / kBits;
  const int count = (int)min((long long)chunk_rows, rows - first);
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const int at = tile.channel(t), n = c - at;
    float totals[2 * kBits] = {};
    if (n > 0) {
      float mean[kBits];
      load_eight<kPacked>(saved + at, n, mean);
      for_rows<2>(
          tile.row, count, tile.rows,
          [&](int row) {
            const long long i = (first + row) * c + at;
            const unsigned char* bits = mask + (first + row) * bytes + at / kBits;
            return Loaded{load_eight<kPacked>(x + i, n), MaskedGradient<T>::template load<kPacked>(dy + i, bits, n)};
          },
          [&](int row, const Loaded& of) {
            float v[kBits], g[kBits];
            of.x.widen(v);
            of.d.widen(g);
#pragma unroll
            for (int k = 0; k < kBits; k++) {
              totals[k] += g[k];
              totals[kBits + k] = fmaf(g[k], v[k] - mean[k], totals[kBits + k]);
            }
            store_eight<kPacked>(d + (first + row) * c + at, n, g);
          });
    }
    sum_over_rows(totals, tile.lanes);
    if (tile.row == 0) store_partial(m, c, at, n, totals, totals + kBits);
  }
  finish_sums(tile, m, saved, rows, c);
}

/// dx = scale * d + k2 * x + k3, with d = dy * f'(x * scale + shift). dx may alias dy.
template <typename T, int V>
__device__ void input_gradient(const T* __restrict__ x, const T* dy, const float* __restrict__ saved,
                               const float* __restrict__ factors, T* dx, long long rows, int c, int chunk_rows, int f) {
  const Tile<V> tile(c);
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const int at = tile.channel(t);
    if (at >= c) continue;
    float scale[V], shift[V], k2[V], k3[V];
    load_floats(saved + 2 * c + at, scale);
    load_floats(saved + 3 * c + at, shift);
    load_floats(factors + at, k2);
    load_floats(factors + c + at, k3);
    for_rows_backwards<2>(
        tile, rows, chunk_rows,
        [&](long long row) {
          return StoredPair<T, V>{Stored<T, V>::load(x + row * c + at), Stored<T, V>::load(dy + row * c + at)};
        },
        [&](long long row, const StoredPair<T, V>& of) {
          float v[V], g[V];
          const float no_residual[V] = {};
          of.x.widen(v);
          of.dy.widen(g);
          if (f != kIdentity) multiply_by_derivative(f, v, scale, shift, no_residual, g);
#pragma unroll
          for (int k = 0; k < V; k++) g[k] = fmaf(scale[k], g[k], fmaf(k2[k], v[k], k3[k]));
          store<V>(dx + row * c + at, g);
        });
  }
}

}  // namespace

/// Increments the number of batches.
KERNEL batch_norm_count(long long* batches) { *batches += 1; }

#define BY_ELEMENT(T, name)                                                                                                        \
  SINGLE_WAVE_KERNEL batch_norm_statistics_##name(const T* x, StatisticsMerge merge, long long rows, int c, int chunk_rows) {      \
    if (in_packs<T>(c, aligned(x))) statistics<T, Pack<T>::N, false>(x, merge, rows, c, chunk_rows);                               \
    else statistics<T, 1, false>(x, merge, rows, c, chunk_rows);                                                                   \
  }                                                                                                                                \
  SINGLE_WAVE_KERNEL batch_norm_moments_##name(const T* x, StatisticsMerge merge, long long rows, int c, int chunk_rows) {         \
    if (in_packs<T>(c, aligned(x))) statistics<T, Pack<T>::N, true>(x, merge, rows, c, chunk_rows);                                \
    else statistics<T, 1, true>(x, merge, rows, c, chunk_rows);                                                                    \
  }                                                                                                                                \
  SINGLE_WAVE_KERNEL batch_norm_fwd_##name(const T* x, const float* saved, const T* residual, T* y, long long rows, int c,         \
                                        int chunk_rows, int f) {                                                                   \
    const bool packs = in_packs<T>(c, aligned(x) && aligned(residual) && aligned(y));                                              \
    if (packs && residual) apply<T, Pack<T>::N, true>(x, saved, residual, y, rows, c, chunk_rows, f);                              \
    else if (packs) apply<T, Pack<T>::N, false>(x, saved, residual, y, rows, c, chunk_rows, f);                                    \
    else if (residual) apply<T, 1, true>(x, saved, residual, y, rows, c, chunk_rows, f);                                           \
    else apply<T, 1, false>(x, saved, residual, y, rows, c, chunk_rows, f);                                                        \
  }                                                                                                                                \
  KERNEL batch_norm_sums_bwd_##name(const T* x, const T* dy, const T* residual, const float* saved, T* d, SumsMerge merge,         \
                                 long long rows, int c, int chunk_rows, int f) {                                                   \
    const bool packs = in_packs<T>(c, aligned(x) && aligned(dy) && aligned(residual) && aligned(d));                               \
    if (packs && residual) sums<T, Pack<T>::N, true>(x, dy, residual, saved, d, merge, rows, c, chunk_rows, f);                    \
    else if (packs) sums<T, Pack<T>::N, false>(x, dy, residual, saved, d, merge, rows, c, chunk_rows, f);                          \
    else if (residual) sums<T, 1, true>(x, dy, residual, saved, d, merge, rows, c, chunk_rows, f);                                 \
    else sums<T, 1, false>(x, dy, residual, saved, d, merge, rows, c, chunk_rows, f);                                              \
  }                                                                                                                                \
  KERNEL batch_norm_masked_fwd_##name(const T* x, const float* saved, const T* residual, T* y, unsigned char* mask,                \
                                   long long rows, int c, int chunk_rows, int f) {                                                 \
    if (c % kBits == 0 && aligned(x) && aligned(residual) && aligned(y))                                                           \
      apply_masked<T, true>(x, saved, residual, y, mask, rows, c, chunk_rows, f);                                                  \
    else apply_masked<T, false>(x, saved, residual, y, mask, rows, c, chunk_rows, f);                                              \
  }                                                                                                                                \
  KERNEL batch_norm_masked_sums_bwd_##name(const T* x, const T* dy, const unsigned char* mask, const float* saved, T* d,           \
                                        SumsMerge merge, long long rows, int c, int chunk_rows) {                                  \
    if (c % kBits == 0 && aligned(x) && aligned(dy) && aligned(d))                                                                 \
      sums_masked<T, true>(x, dy, mask, saved, d, merge, rows, c, chunk_rows);                                                     \
    else sums_masked<T, false>(x, dy, mask, saved, d, merge, rows, c, chunk_rows);                                                 \
  }                                                                                                                                \
  KERNEL batch_norm_bwd_##name(const T* x, const T* dy, const float* saved, const float* factors, T* dx, long long rows, int c,    \
                            int chunk_rows, int f) {                                                                               \
    if (in_packs<T>(c, aligned(x) && aligned(dy) && aligned(dx)))                                                                  \
      input_gradient<T, Pack<T>::N>(x, dy, saved, factors, dx, rows, c, chunk_rows, f);                                            \
    else input_gradient<T, 1>(x, dy, saved, factors, dx, rows, c, chunk_rows, f);                                                  \
  }

#define BY_PARAMETER(P, name)                                                                                                    \
  KERNEL batch_norm_frozen_##name(const P* mean, const P* var, const P* weight, const P* bias, float eps, int c, float* saved) { \
    const int j = blockIdx.x * kThreads + threadIdx.x;                                                                           \
    if (j < c) save_channel<P>(saved, c, j, to_float(mean[j]), to_float(var[j]), eps, weight, bias);                             \
  }

BY_ELEMENT(float, f32)
BY_ELEMENT(half16, f16)
BY_ELEMENT(bfloat16, bf16)
BY_PARAMETER(float, f32)
BY_PARAMETER(half16, f16)
BY_PARAMETER(bfloat16, bf16)
