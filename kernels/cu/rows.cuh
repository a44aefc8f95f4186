// Rows of adjacent elements, each reduced by a warp or, long ones, by a whole block.
#pragma once
#include "channels.cuh"

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

/// The threads that share a row: a warp (W = 1), or all W warps of a block.
template <int W> struct Team {
  static constexpr int kSize = W * kWarp;
  /// Rows that a block works on at once.
  static constexpr int kRows = kThreads / kSize;
  /// This thread's number within the team.
  int thread = threadIdx.x % kSize;
  /// The first row of this thread's team.
  long long first = (long long)blockIdx.x * kRows + threadIdx.x / kSize;
  /// Rows from one to the team's next.
  long long step = (long long)gridDim.x * kRows;

  /// The sum over the team, for every thread: a fixed tree.
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

  /// The maximum over the team, for every thread; NaN counts only where there is nothing else.
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

/// Warps of the teams of long rows.
constexpr int kLong = kThreads / kWarp;

/// The maximum of a row and the sum of e^(x - max), collected in one sweep.
struct ExpSum {
  float max = __int_as_float(0xff800000), sum = 0;

  /// What is taken off before the exponential: the maximum, but nothing as long as that is -infinity.
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

  /// The row's, from those of its team's threads.
  template <int W> __device__ void merge(const Team<W>& team) {
    const float largest = team.max(max);
    sum = team.sum(sum * expf(max - shift(largest)));
    max = largest;
  }

  __device__ float log_sum() const { return shift(max) + logf(sum); }
};

/// The sum of `value` over a block, for every thread: a fixed tree.
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

/// out = scale * the sum of `count` values, by one block.
template <typename T> __device__ void scaled_sum(const float* __restrict__ values, long long count, double scale, T* out) {
  double sum = 0;
  for (long long i = threadIdx.x; i < count; i += kThreads) sum += values[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = from_float<T>((float)(sum * scale));
}

/// What stands above a row's target class: larger values, and equal ones of lower classes.
struct Rank {
  float value;
  long long target;
  float above = 0;

  __device__ Rank(float value, long long target) : value(value), target(target) {}

  /// Counts adjacent classes from `first` on.
  template <int V> __device__ __forceinline__ void add(const float (&x)[V], int first) {
#pragma unroll
    for (int k = 0; k < V; k++) above += x[k] > value || (x[k] == value && first + k < target) ? 1 : 0;
  }
};
