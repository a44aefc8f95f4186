// Access to channels-last data as rows of channels, with V adjacent channels per thread.
#pragma once
#include "fornax.cuh"

/// Threads per block in all kernels that include this header.
constexpr int kThreads = 256;

/// Kernel with kThreads threads per block. Two blocks per multiprocessor keep memory busy and leave each thread 128 registers.
#define KERNEL extern "C" __global__ void __launch_bounds__(kThreads, 2)

/// Maximum number of threads along the channels of a block.
constexpr int kLanes = 32;

/// Loads V adjacent elements as floats: one element (V = 1), or a pack of 16 bytes.
template <int V, typename T> __device__ __forceinline__ void load(const T* from, float (&to)[V]) {
  if constexpr (V == 1) {
    to[0] = to_float(*from);
  } else {
    const Pack<T> pack = Pack<T>::load(from);
#pragma unroll
    for (int k = 0; k < V; k++) to[k] = to_float(pack.v[k]);
  }
}

/// Rounds V floats and stores them as adjacent elements.
template <int V, typename T> __device__ __forceinline__ void store(T* to, const float (&from)[V]) {
  if constexpr (V == 1) {
    *to = from_float<T>(from[0]);
  } else {
    Pack<T> pack;
#pragma unroll
    for (int k = 0; k < V; k++) pack.v[k] = from_float<T>(from[k]);
    pack.store(to);
  }
}

/// Loads V adjacent floats, such as per-channel parameters; aligned to 16 bytes if V > 1.
template <int V> __device__ __forceinline__ void load_floats(const float* from, float (&to)[V]) {
  if constexpr (V == 1) {
    to[0] = *from;
  } else {
#pragma unroll
    for (int k = 0; k < V; k += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + k);
      to[k] = four.x;
      to[k + 1] = four.y;
      to[k + 2] = four.z;
      to[k + 3] = four.w;
    }
  }
}

/// True when a pointer is a multiple of 16 bytes; null is.
__device__ __forceinline__ bool aligned(const void* p) { return (reinterpret_cast<unsigned long long>(p) & 15) == 0; }

/// True when rows of `c` elements can be read in packs; `aligned` says whether the tensors are.
template <typename T> __device__ __forceinline__ bool in_packs(int c, bool aligned) {
  return aligned && c % Pack<T>::N == 0;
}

/// Mapping of a block's threads to rows of channels: `lanes` threads along the channels, V channels each, by `rows` rows. Narrow
/// rows get few lanes, so that every thread has work. The channels are divided into `count` tiles, each as wide as a block.
template <int V> struct Tile {
  int lanes, rows, lane, row, count;

  __device__ explicit Tile(int c) {
    const int packs = (c + V - 1) / V;
    lanes = 1;
    while (lanes < packs && lanes < kLanes) lanes *= 2;
    rows = kThreads / lanes;
    lane = threadIdx.x % lanes;
    row = threadIdx.x / lanes;
    count = (packs + lanes - 1) / lanes;
  }

  /// First channel of this thread in a tile; at least c for threads without work.
  __device__ int channel(int tile) const { return (tile * lanes + lane) * V; }
};

/// Sums each of K values over the rows of a tile, in a fixed tree; the threads of row 0 receive the totals.
template <int K> __device__ void sum_over_rows(float (&values)[K], int lanes) {
  constexpr int kSlice = K < 8 ? K : 8;
  __shared__ float shared[kSlice][kThreads];
  const int t = threadIdx.x;
#pragma unroll
  for (int first = 0; first < K; first += kSlice) {
#pragma unroll
    for (int k = 0; k < kSlice; k++) {
      if (first + k < K) shared[k][t] = values[first + k];
    }
    for (int half = kThreads / lanes / 2; half > 0; half /= 2) {
      __syncthreads();
      if (t < half * lanes) {
#pragma unroll
        for (int k = 0; k < kSlice; k++) shared[k][t] += shared[k][t + half * lanes];
      }
    }
#pragma unroll
    for (int k = 0; k < kSlice; k++) {
      if (first + k < K) values[first + k] = shared[k][t];
    }
    __syncthreads();
  }
}

/// Writes for each channel of a tile the mean over n rows to out[channel] and the sum of squared deviations from it (M2) to
/// out[c + channel]. Values are first shifted by the first row, so that a large common offset costs no precision.
template <typename T, int V> __device__ void chunk_statistics(const T* x, int n, int c, const Tile<V>& tile, int t, float* out) {
  const int at = tile.channel(t);
  float from[V], sums[2 * V] = {};
  if (at < c) {
    load<V>(x + at, from);
#pragma unroll 4
    for (int row = tile.row; row < n; row += tile.rows) {
      float v[V];
      load<V>(x + (long long)row * c + at, v);
#pragma unroll
      for (int k = 0; k < V; k++) {
        const float d = v[k] - from[k];
        sums[k] += d;
        sums[V + k] = fmaf(d, d, sums[V + k]);
      }
    }
  }
  sum_over_rows(sums, tile.lanes);
  if (at < c && tile.row == 0) {
#pragma unroll
    for (int k = 0; k < V; k++) {
      const float offset = sums[k] / n;
      out[at + k] = from[k] + offset;
      out[c + at + k] = fmaxf(sums[V + k] - offset * sums[k], 0);
    }
  }
}

/// True in the last of `blocks` blocks to arrive, which then sees all earlier writes of the others. The ticket is 0 before the first
/// block arrives and after the last has.
__device__ inline bool is_last(unsigned* ticket, int blocks) {
  __shared__ int last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(ticket, (unsigned)blocks - 1) == (unsigned)blocks - 1;
    __threadfence();
  }
  __syncthreads();
  return last != 0;
}

/// Adjacent channels per block in kernels that merge partial results; the rest of the block's threads spread over the chunks.
constexpr int kMergeLanes = 16;

/// Sum of `value` over the threads of each channel, returned to every thread, in a fixed tree.
__device__ inline double merge(double value) {
  __shared__ double shared[kThreads];
  const int t = threadIdx.x;
  shared[t] = value;
  for (int half = kThreads / 2; half >= kMergeLanes; half /= 2) {
    __syncthreads();
    if (t < half) shared[t] += shared[t + half];
  }
  __syncthreads();
  const double total = shared[t % kMergeLanes];
  __syncthreads();
  return total;
}
