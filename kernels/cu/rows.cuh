// Reductions of contiguous rows, by a warp per row or, for long rows, a whole block.
#pragma once
#include "channels.cuh"

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

/// Group of threads that reduces a row: a warp (W = 1), or all W warps of a block.
template <int W> struct Team {
  static constexpr int kSize = W * kWarp;
  /// Rows processed by a block at once.
  static constexpr int kRows = kThreads / kSize;
  /// Index of this thread within the team.
  int thread = threadIdx.x % kSize;
  /// First row of this thread's team.
  long long first = (long long)blockIdx.x * kRows + threadIdx.x / kSize;
  /// Distance from a row to the team's next.
  long long step = (long long)gridDim.x * kRows;

  /// Sum over the team in a fixed tree, returned to every thread.
  __device__ float sum(float value) const {
#pragma unroll
    for (int lane = kWarp / 2; lane > 0; lane /= 2) value += __shfl_xor_sync(kAllLanes, value, lane);
    if constexpr (W > 1) {
      __shared__ float shared[W];
      if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
      __syncthreads();
      value = shared[0];
      for (int w = 1; w < W; w++) value += shared[w];
      __syncthreads();
    }
    return value;
  }

  /// Maximum over the team, returned to every thread; NaN is ignored unless all values are NaN.
  __device__ float max(float value) const {
#pragma unroll
    for (int lane = kWarp / 2; lane > 0; lane /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, lane));
    if constexpr (W > 1) {
      __shared__ float shared[W];
      if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
      __syncthreads();
      value = shared[0];
      for (int w = 1; w < W; w++) value = fmaxf(value, shared[w]);
      __syncthreads();
    }
    return value;
  }
};

/// Calls use(i, load(i)) for i = first, first + step, … below `end`, in order, as `for_rows`, for rows so short that a thread may have
/// fewer than B items: those are loaded together, too.
template <int B, typename Load, typename Use>
__device__ __forceinline__ void for_few(int first, int end, int step, const Load& load, const Use& use) {
#pragma unroll 1
  for (int i = first; i < end; i += B * step) {
    decltype(load(i)) loaded[B];
#pragma unroll
    for (int b = 0; b < B; b++) {
      if (i + b * step < end) loaded[b] = load(i + b * step);
    }
#pragma unroll
    for (int b = 0; b < B; b++) {
      if (i + b * step < end) use(i + b * step, loaded[b]);
    }
  }
}

/// Warps per team for long rows.
constexpr int kLong = kThreads / kWarp;

/// Online softmax statistics: the maximum of a row and the sum of e^(x - max), in one pass.
struct ExpSum {
  float max = __int_as_float(0xff800000), sum = 0;

  /// Value subtracted before the exponential: the maximum, or 0 if that is -infinity.
  __device__ static float shift(float max) { return max == __int_as_float(0xff800000) ? 0 : max; }

  template <int V> __device__ __forceinline__ void add(const float (&x)[V]) {
    float larger = max;
#pragma unroll
    for (int k = 0; k < V; k++) larger = fmaxf(larger, x[k]);
    const float off = shift(larger);
    if (larger != max) sum *= expf(max - off);
    max = larger;
#pragma unroll
    for (int k = 0; k < V; k++) sum += expf(x[k] - off);
  }

  /// Merges the statistics of the team's threads into the row's.
  template <int W> __device__ void merge(const Team<W>& team) {
    const float largest = team.max(max);
    sum = team.sum(sum * expf(max - shift(largest)));
    max = largest;
  }

  __device__ float log_sum() const { return shift(max) + logf(sum); }
};

/// Sum of `value` over a block in a fixed tree, returned to every thread.
__device__ inline double block_sum(double value) {
  __shared__ double shared[kThreads];
  const int t = threadIdx.x;
  shared[t] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t < half) shared[t] += shared[t + half];
  }
  __syncthreads();
  const double total = shared[0];
  __syncthreads();
  return total;
}

/// *out = scale * sum of `count` values, computed by one block.
template <typename T> __device__ void scaled_sum(const float* __restrict__ values, long long count, double scale, T* out) {
  double sum = 0;
  for (long long i = threadIdx.x; i < count; i += kThreads) sum += values[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = from_float<T>((float)(sum * scale));
}

/// Rank of a row's target class: the number of larger logits, and of equal logits with a lower index.
struct Rank {
  float value;
  long long target;
  float above = 0;

  __device__ Rank(float value, long long target) : value(value), target(target) {}

  /// Adds the V adjacent classes starting at `first`.
  template <int V> __device__ __forceinline__ void add(const float (&x)[V], int first) {
#pragma unroll
    for (int k = 0; k < V; k++) above += x[k] > value || (x[k] == value && first + k < target) ? 1 : 0;
  }
};
