// Shared by the kernels of batch norm: merging of the backward pass's sums, and access to rows with a ReLU mask of one bit per element.
#pragma once
#include "arguments.cuh"
#include "batch_norm.cuh"
#include "column_merge.cuh"

/// Channels per byte of the ReLU mask; a row of the mask has ceil(c / 8) bytes, the first channel in the lowest bit.
constexpr int kBits = 8;

/// Loads eight adjacent values of a row: by packs, or one by one, with zeros past the `n` that are left in the row.
template <bool kPacked, typename T> __device__ __forceinline__ Stored<T, kBits> load_eight(const T* from, int n) {
  if constexpr (kPacked) {
    return Stored<T, kBits>::load(from);
  } else {
    Stored<T, kBits> stored;
#pragma unroll
    for (int k = 0; k < kBits; k++) stored.v[k] = k < n ? from[k] : T{};
    return stored;
  }
}

/// Loads eight adjacent values as floats.
template <bool kPacked, typename T> __device__ __forceinline__ void load_eight(const T* from, int n, float (&to)[kBits]) {
  load_eight<kPacked>(from, n).widen(to);
}

/// Rounds and stores eight adjacent values of a row: by packs, or one by one, at most the `n` that are left in the row.
template <bool kPacked, typename T> __device__ __forceinline__ void store_eight(T* to, int n, const float (&from)[kBits]) {
#pragma unroll
  for (int k = 0; k < kBits; k += Pack<T>::N) {
    if constexpr (kPacked) {
      Pack<T> pack;
#pragma unroll
      for (int l = 0; l < Pack<T>::N; l++) pack.v[l] = from_float<T>(from[k + l]);
      pack.store(to + k);
    } else {
#pragma unroll
      for (int l = 0; l < Pack<T>::N; l++) {
        if (k + l < n) to[k + l] = from_float<T>(from[k + l]);
      }
    }
  }
}

/// Eight adjacent gradients of a row, and their bits of the mask.
template <typename T> struct MaskedGradient {
  Stored<T, kBits> dy;
  unsigned bits;

  template <bool kPacked> __device__ __forceinline__ static MaskedGradient load(const T* dy, const unsigned char* mask, int n) {
    return {load_eight<kPacked>(dy, n), *mask};
  }

  /// The gradients as floats, 0 where the bit is not set.
  __device__ __forceinline__ void widen(float (&to)[kBits]) const {
    dy.widen(to);
#pragma unroll
    for (int k = 0; k < kBits; k++) to[k] = bits >> k & 1 ? to[k] : 0;
  }
};

/// Stores this chunk's sums of d and of d * (x - mean) for eight channels from `at` on, at most the `n` that are left.
__device__ __forceinline__ void store_partial(const SumsMerge& m, int c, int at, int n, const float* d, const float* dot) {
  float* out = m.partial + blockIdx.y * 2ll * c + at;
#pragma unroll
  for (int k = 0; k < kBits; k++) {
    if (k >= n) break;
    out[k] = d[k];
    out[c + k] = dot[k];
  }
}

/// Stores this chunk's sums of d and of d * (x - mean), `totals`, for V channels.
template <int N> __device__ __forceinline__ void store_sums(const SumsMerge& m, int c, int at, const float (&totals)[N]) {
  float* out = m.partial + blockIdx.y * 2ll * c + at;
#pragma unroll
  for (int k = 0; k < N / 2; k++) {
    out[k] = totals[k];
    out[c + k] = totals[N / 2 + k];
  }
}

/// Sums of d and of d * (x - mean) over rows.
struct Sums {
  double d, dot;
};

/// Sum of a channel's sums over `count` parts, which are at from[part][2][c].
template <typename F> __device__ Sums merge_sums(const MergeThread& at, const F* from, int count, int c) {
  Sums sums = {0, 0};
  for (int i = at.slice; i < count && at.channel < c; i += at.slices) {
    sums.d += from[i * 2ll * c + at.channel];
    sums.dot += from[i * 2ll * c + c + at.channel];
  }
  return {at.sum(sums.d), at.sum(sums.dot)};
}

/// Stores element j of a vector of dtype `dtype`, unless it is null.
__device__ __forceinline__ void store_parameter(void* to, int dtype, int j, double value) {
  if (!to) return;
  switch (dtype) {
    case kF32: static_cast<float*>(to)[j] = (float)value; break;
    case kF16: static_cast<half16*>(to)[j] = from_float<half16>((float)value); break;
    case kBf16: static_cast<bfloat16*>(to)[j] = from_float<bfloat16>((float)value); break;
  }
}

/// Stores what follows from the sums of a channel over all rows.
__device__ inline void save_sums(const MergeThread& at, const SumsMerge& m, const Sums& of, const float* saved, long long rows, int c) {
  const int j = at.channel;
  if (at.slice != 0 || j >= c) return;
  switch (m.kind) {
    case kZeros: m.factors[j] = m.factors[c + j] = 0; break;
    case kOfBatch: store_factors(m.factors, saved, c, j, of.d, of.dot, rows); break;
    case kSums:
      m.factors[j] = (float)of.d;
      m.factors[c + j] = (float)of.dot;
      break;
  }
  store_parameter(m.dweight, m.format, j, of.dot * saved[c + j]);
  store_parameter(m.dbias, m.format, j, of.d);
}

/// Merges the partial sums of all chunks.
template <int V>
__device__ void finish_sums(const Tile<V>& tile, const SumsMerge& m, const float* saved, long long rows, int c) {
  const ColumnMerge column(m.tickets);
  if (!column.merges_group()) return;
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const MergeThread at(tile, t);
    const Sums of = merge_sums(at, m.partial + column.first * 2ll * c, column.count, c);
    if (column.groups == 1) {
      save_sums(at, m, of, saved, rows, c);
    } else if (at.slice == 0 && at.channel < c) {
      m.merged[column.group * 2ll * c + at.channel] = of.d;
      m.merged[column.group * 2ll * c + c + at.channel] = of.dot;
    }
  }
  if (column.groups == 1 || !column.merges_column()) return;
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const MergeThread at(tile, t);
    save_sums(at, m, merge_sums(at, m.merged, column.groups, c), saved, rows, c);
  }
}
