// Merging of partial results in the kernel that computes them, by the last block to finish, which saves a launch.
//
// A column of the grid (equal blockIdx.x) computes partial results for the same channels, one block per chunk of rows (blockIdx.y). The
// last block of each kMergeGroup adjacent chunks to arrive merges their results, and the last of these blocks merges those of the groups.
// Timing decides which blocks merge, but not what they add, nor the order in which they add it.
#pragma once
#include "arguments.cuh"
#include "channels.cuh"

/// Position of a block in the merging of its column. `tickets` has gridDim.y / kMergeGroup + 2 counters per column, at least; they are 0
/// before and after the launch.
struct ColumnMerge {
  int group, groups, first, count;
  unsigned* tickets;

  __device__ explicit ColumnMerge(unsigned* all) {
    groups = (gridDim.y + kMergeGroup - 1) / kMergeGroup;
    group = blockIdx.y / kMergeGroup;
    first = group * kMergeGroup;
    count = min(kMergeGroup, (int)gridDim.y - first);
    tickets = all + (long long)blockIdx.x * (groups + 1);
  }

  /// True in the last block of its group to arrive, which merges the results of chunks [first, first + count).
  __device__ bool merges_group() const { return is_last(tickets + 1 + group, count); }
  /// True in the last block of the column to have merged a group, which merges the results of all groups.
  __device__ bool merges_column() const { return is_last(tickets, groups); }
};

/// Mapping of a block's threads to the channels of a tile, several threads to each, which merge different chunks.
struct MergeThread {
  int channel, slice, slices, width;

  template <int V> __device__ MergeThread(const Tile<V>& tile, int t) {
    width = tile.lanes * V;
    channel = t * width + threadIdx.x % width;
    slice = threadIdx.x / width;
    slices = kThreads / width;
  }

  /// Sum of `value` over the threads of each channel, returned to every thread, in a fixed tree.
  __device__ double sum(double value) const {
    __shared__ double shared[kThreads];
    const int t = threadIdx.x;
    shared[t] = value;
    for (int half = kThreads / 2; half >= width; half /= 2) {
      __syncthreads();
      if (t < half) shared[t] += shared[t + half];
    }
    __syncthreads();
    const double total = shared[t % width];
    __syncthreads();
    return total;
  }
};
