// Data gradient of a 1x1 convolution of stride 1 with the backward sums of the batch norm before it in the epilogue, in f16 or bf16.
//
// In a residual network the gradient of a block's output is the sum of the next block's skip gradient and the data gradient of its first
// convolution. The batch norm that computed the output then multiplies it by ReLU's derivative (a bit per element), stores it, and sums it
// by channel. Here a block of threads computes a tile of the data gradient, dy [rows, k] times the weight [k, c], adds the skip gradient,
// applies the bits, rounds and stores d, and accumulates the sums of d and of d * (x - mean): the sums pass, which reads and writes the
// gradient again, is not needed.
//
// A column of the grid has kColumns channels; its blocks divide the rows into chunks. The partial sums are merged as in the sums pass.
#include "batch_norm_sums.cuh"
#include "mma.cuh"

namespace {

/// Results of a block at a time, and the terms that it stages in shared memory at once.
constexpr int kRows = 128, kColumns = 128, kDepth = 32;
/// Warps along rows and columns, and the 16-row and 8-column tiles of each.
constexpr int kRowWarps = 4, kColumnWarps = 2, kRowTiles = kRows / kRowWarps / 16, kColumnTiles = kColumns / kColumnWarps / 8;
/// Distances between rows in shared memory; the odd multiples of 16 bytes avoid bank conflicts.
constexpr int kLeftStride = kDepth + 8, kRightStride = kColumns + 8, kResultStride = kColumns / kColumnWarps + 4;
/// Elements of a staged left and right tile.
constexpr int kLeft = kRows * kLeftStride, kRight = kDepth * kRightStride;
/// Bytes of two stages, or of 16 rows of each warp's results.
constexpr int kStageBytes = 2 * (kLeft + kRight) * 2, kResultBytes = 8 * 16 * kResultStride * 4;
constexpr int kSharedBytes = kStageBytes > kResultBytes ? kStageBytes : kResultBytes;

/// Operands of the kernel with N batch norms, whose inputs are added before the ReLU.
template <typename T, int N> struct Operands {
  /// [rows, k] and [k, c].
  const T *dy, *weight;
  /// Skip gradient, [rows, c], or null; d may be in its memory.
  const T* skip;
  /// [rows, c / 8].
  const unsigned char* mask;
  const T* x[N];
  const float* saved[N];
  T* d;
  long long rows;
  int k, c, chunk_rows;
};

/// Starts to copy a stage of the operands.
template <typename T, int N>
__device__ __forceinline__ void stage(const Operands<T, N>& p, T* left, T* right, long long row0, int column0, int k0) {
  constexpr int kPack = Pack<T>::N;
#pragma unroll 1
  for (int i = threadIdx.x; i < kRows * kDepth / kPack; i += kThreads) {
    const int row = i / (kDepth / kPack), k = i % (kDepth / kPack) * kPack;
    const bool is_valid = row0 + row < p.rows && k0 + k < p.k;
    copy_to_shared(left + row * kLeftStride + k, is_valid ? p.dy + (row0 + row) * p.k + k0 + k : p.dy, is_valid);
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < kDepth * kColumns / kPack; i += kThreads) {
    const int k = i / (kColumns / kPack), column = i % (kColumns / kPack) * kPack;
    const bool is_valid = k0 + k < p.k && column0 + column < p.c;
    copy_to_shared(right + k * kRightStride + column, is_valid ? p.weight + (long long)(k0 + k) * p.c + column0 + column : p.weight, is_valid);
  }
  commit_copies();
}

/// This warp's part of a tile of dy times weight.
template <typename T, int N>
__device__ __forceinline__ void multiply(const Operands<T, N>& p, T* shared, long long row0, int column0,
                                         float (&sums)[kRowTiles][kColumnTiles][4]) {
  const int warp = threadIdx.x / 32, top = warp / kColumnWarps * (kRows / kRowWarps), first = warp % kColumnWarps * (kColumns / kColumnWarps);
  T* const left[2] = {shared, shared + kLeft};
  T* const right[2] = {shared + 2 * kLeft, shared + 2 * kLeft + kRight};
  stage(p, left[0], right[0], row0, column0, 0);
  const int stages = (p.k + kDepth - 1) / kDepth;
  for (int s = 0; s < stages; s++) {
    const T* const a = s % 2 ? left[1] : left[0];
    const T* const b = s % 2 ? right[1] : right[0];
    if (s + 1 < stages) {
      stage(p, s % 2 ? left[0] : left[1], s % 2 ? right[0] : right[1], row0, column0, (s + 1) * kDepth);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      unsigned rows[kRowTiles][4];
#pragma unroll
      for (int i = 0; i < kRowTiles; i++) load_rows(a + (top + 16 * i) * kLeftStride + k, kLeftStride, rows[i]);
#pragma unroll
      for (int j = 0; j < kColumnTiles; j += 2) {
        unsigned columns[2][2];
        load_columns(b + k * kRightStride + first + 8 * j, kRightStride, columns);
#pragma unroll
        for (int i = 0; i < kRowTiles; i++) {
          mma<T>(sums[i][j], rows[i], columns[0]);
          mma<T>(sums[i][j + 1], rows[i], columns[1]);
        }
      }
    }
    // The next stage overwrites what other warps may still read.
    __syncthreads();
  }
}

template <typename T, int N>
__device__ void data_gradient(const Operands<T, N>& p, const SumsMerge (&merge)[N]) {
  __align__(16) __shared__ unsigned char shared[kSharedBytes];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  // In the epilogue a lane has eight adjacent channels, and every fourth row.
  const int column0 = blockIdx.x * kColumns, at = column0 + warp % kColumnWarps * (kColumns / kColumnWarps) + lane % 8 * kBits;
  const bool has_channels = at < p.c;
  float totals[1 + N][kBits] = {};
  const long long begin = (long long)blockIdx.y * p.chunk_rows, end = min(p.rows, begin + p.chunk_rows);
  for (long long row0 = begin; row0 < end; row0 += kRows) {
    float sums[kRowTiles][kColumnTiles][4] = {};
    multiply(p, reinterpret_cast<T*>(shared), row0, column0, sums);
    // Each warp passes 16 rows of its results through its own part of shared memory, so that lanes get adjacent channels.
    float* const results = reinterpret_cast<float*>(shared) + warp * 16 * kResultStride;
#pragma unroll
    for (int i = 0; i < kRowTiles; i++) {
#pragma unroll
      for (int j = 0; j < kColumnTiles; j++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float* const to = results + (g + 8 * half) * kResultStride + 8 * j + 2 * t;
          to[0] = sums[i][j][2 * half];
          to[1] = sums[i][j][2 * half + 1];
        }
      }
      __syncwarp();
      for (int line = lane / 8; line < 16; line += 4) {
        const long long row = row0 + warp / kColumnWarps * (kRows / kRowWarps) + 16 * i + line;
        if (row >= p.rows || !has_channels) continue;
        const long long offset = row * p.c + at;
        float v[kBits], skip[kBits] = {};
        load_floats(results + line * kResultStride + lane % 8 * kBits, v);
        if (p.skip) load_eight<true>(p.skip + offset, kBits, skip);
        const unsigned bits = p.mask[offset / kBits];
#pragma unroll
        for (int k = 0; k < kBits; k++) v[k] = to_float(from_float<T>(bits >> k & 1 ? v[k] + skip[k] : 0));
        store_eight<true>(p.d + offset, kBits, v);
#pragma unroll
        for (int n = 0; n < N; n++) {
          float x[kBits], mean[kBits];
          load_eight<true>(p.x[n] + offset, kBits, x);
          load_floats(p.saved[n] + at, mean);
#pragma unroll
          for (int k = 0; k < kBits; k++) totals[1 + n][k] = fmaf(v[k], x[k] - mean[k], totals[1 + n][k]);
        }
#pragma unroll
        for (int k = 0; k < kBits; k++) totals[0][k] += v[k];
      }
      __syncwarp();
    }
    // The next tile's stages overwrite the results.
    __syncthreads();
  }
  // Sums over the lanes of a warp, then over the warps, with the same channels.
  float* const by_warp = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int n = 0; n < 1 + N; n++) {
#pragma unroll
    for (int k = 0; k < kBits; k++) {
      float total = totals[n][k];
      total += __shfl_xor_sync(0xffffffffu, total, 8);
      total += __shfl_xor_sync(0xffffffffu, total, 16);
      if (lane < 8) by_warp[(n * kRowWarps + warp / kColumnWarps) * kColumns + (at - column0) + k] = total;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < (1 + N) * kColumns; i += kThreads) {
    const int n = i / kColumns, channel = i % kColumns;
    if (column0 + channel >= p.c) continue;
    float total = 0;
#pragma unroll
    for (int w = 0; w < kRowWarps; w++) total += by_warp[(n * kRowWarps + w) * kColumns + channel];
    // The sum of d belongs to each batch norm.
#pragma unroll
    for (int m = 0; m < N; m++) {
      float* const out = merge[m].partial + blockIdx.y * 2ll * p.c + column0 + channel;
      if (n == 0) out[0] = total;
      else if (n == 1 + m) out[p.c] = total;
    }
  }
  // Tiles of the merge are as wide as the columns of this grid.
  const Tile<kColumns / kLanes> tile(p.c);
#pragma unroll
  for (int n = 0; n < N; n++) finish_sums(tile, merge[n], p.saved[n], p.rows, p.c);
}

}  // namespace

#define BY_ELEMENT(T, name)                                                                                                       \
  KERNEL pointwise_data_gradient_##name(const T* dy, const T* weight, const T* skip, const unsigned char* mask, const T* x,       \
                                        const float* saved, T* d, const __grid_constant__ SumsMerge merge, long long rows, int k, \
                                        int c, int chunk_rows) {                                                                  \
    const SumsMerge merges[1] = {merge};                                                                                          \
    data_gradient<T, 1>({dy, weight, skip, mask, {x}, {saved}, d, rows, k, c, chunk_rows}, merges);                               \
  }                                                                                                                               \
  KERNEL pointwise_data_gradient_pair_##name(const T* dy, const T* weight, const T* skip, const unsigned char* mask, const T* x0, \
                                             const T* x1, const float* saved0, const float* saved1, T* d,                         \
                                             const __grid_constant__ SumsMerge merge0, const __grid_constant__ SumsMerge merge1,  \
                                             long long rows, int k, int c, int chunk_rows) {                                      \
    const SumsMerge merges[2] = {merge0, merge1};                                                                                 \
    data_gradient<T, 2>({dy, weight, skip, mask, {x0, x1}, {saved0, saved1}, d, rows, k, c, chunk_rows}, merges);                 \
  }

BY_ELEMENT(half16, f16)
BY_ELEMENT(bfloat16, bf16)
