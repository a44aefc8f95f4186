// Access to channels-last data as rows of channels, with V adjacent channels per thread.
#pragma once
#include "fornax.cuh"

/// Threads per block in all kernels that include this header.
constexpr int kThreads = 256;

/// Kernel with kThreads threads per block. Two blocks per multiprocessor keep memory busy and leave each thread 128 registers.
#define KERNEL extern "C" __global__ void __launch_bounds__(kThreads, 2)

/// Kernel that leaves each thread 64 registers: four blocks per multiprocessor, so the blocks of a pass with sums (512 at most) are
/// resident at once on a device of 128 multiprocessors or more.
#define SINGLE_WAVE_KERNEL extern "C" __global__ void __launch_bounds__(kThreads, 4)

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

/// V adjacent elements as stored, in registers: one element, or packs of 16 bytes. A thread that loads several of these before it computes
/// has all of them in flight, in fewer registers than as floats.
template <typename T, int V> struct Stored {
  T v[V];

  __device__ __forceinline__ static Stored load(const T* from) {
    Stored stored;
    if constexpr (V == 1) {
      stored.v[0] = *from;
    } else {
#pragma unroll
      for (int first = 0; first < V; first += Pack<T>::N) {
        const Pack<T> pack = Pack<T>::load(from + first);
#pragma unroll
        for (int k = 0; k < Pack<T>::N; k++) stored.v[first + k] = pack.v[k];
      }
    }
    return stored;
  }

  __device__ __forceinline__ void widen(float (&to)[V]) const {
#pragma unroll
    for (int k = 0; k < V; k++) to[k] = to_float(v[k]);
  }
};

/// Adjacent elements of an input and of the output's gradient.
template <typename T, int V> struct StoredPair {
  Stored<T, V> x, dy;
};

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

/// Calls use(row, load(row)) for the rows first, first + step, … below `end`, in order. B rows are loaded before the first of them is used:
/// a loop with a test between loads waits for memory once per row.
template <int B, typename Row, typename Step, typename Load, typename Use>
__device__ __forceinline__ void for_rows(Row first, Row end, Step step, const Load& load, const Use& use) {
  Row row = first;
#pragma unroll 1
  for (; row < end - (B - 1) * step; row += B * step) {
    decltype(load(row)) loaded[B];
#pragma unroll
    for (int b = 0; b < B; b++) loaded[b] = load(row + b * step);
#pragma unroll
    for (int b = 0; b < B; b++) use(row + b * step, loaded[b]);
  }
#pragma unroll 1
  for (; row < end; row += step) use(row, load(row));
}

/// Calls use(row, load(row)) for all `rows` rows, divided among the blocks of a column of the grid, B rows of a thread at a time. The end
/// of each chunk of `chunk_rows` rows comes first, its beginning last: the L2 cache still holds the rows that a pass over these chunks
/// read last.
template <int B, int V, typename Load, typename Use>
__device__ __forceinline__ void for_rows_backwards(const Tile<V>& tile, long long rows, int chunk_rows, const Load& load, const Use& use) {
  const int slab = B * tile.rows;
  const unsigned chunks = (unsigned)((rows + chunk_rows - 1) / chunk_rows), slabs = (chunk_rows + slab - 1) / slab;
#pragma unroll 1
  for (unsigned i = blockIdx.y; i < chunks * slabs; i += gridDim.y) {
    const unsigned from_end = i / chunks;
    const long long first = (long long)(i - from_end * chunks) * chunk_rows;
    const int start = (int)min((long long)chunk_rows, rows - first) - (int)(from_end + 1) * slab;
    for_rows<B>(first + max(start, 0) + tile.row, first + start + slab, tile.rows, load, use);
  }
}

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
    for_rows<4>(
        tile.row, n, tile.rows, [&](int row) { return Stored<T, V>::load(x + (long long)row * c + at); },
        [&](int, const Stored<T, V>& stored) {
          float v[V];
          stored.widen(v);
#pragma unroll
          for (int k = 0; k < V; k++) {
            const float d = v[k] - from[k];
            sums[k] += d;
            sums[V + k] = fmaf(d, d, sums[V + k]);
          }
        });
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
