// Updates of many f32 parameters in one launch. The table of parameters travels by value, so that a captured launch holds all it needs;
// what changes from step to step (rates, loss scale, counters) is in memory.
//
// A rule runs in stages: all but the last add up numbers over parameters and their rows, the last writes weights, moments, average and
// half-precision copy in one pass. A stage is `stage<Rule>`, whose Rule is generated (`engine/src/fuse/update_source.rs`): the numbers of a
// parameter, computed once a block in double, and functions of single elements. Sums are merged by each block that reads them, in an
// order that shapes give; the last block to end counts the update.
#pragma once
#include "fuse.cuh"

constexpr int kParameters = 240, kMoments = 5, kMemory = 3;

/// A parameter as an update sees it: addresses of its elements, gradient, moments, average, copy in half precision and of the number
/// kept for it, null for what there is not.
struct Parameter {
  unsigned long long weights, gradient, moments[kMoments], ema, copy, kept;
  long long n;
  /// Elements of a row, and of a chunk, which is what a block works on.
  int row_length, chunk_length;
  /// The first of the launch's chunks that are its own, and the first of all parameters' rows.
  int chunk, row;
  float decay, rate;
  int axes, clips;
  /// Formats of the copy and of what the weights are rounded to.
  int copy_format, round_format;
  /// Elements of the last axis, where the second moment is factored: its means over that and over the first axis are the last two moments.
  int inner, padding;
};

struct Parameters {
  long long count;
  Parameter of[kParameters];
};

/// What an update reads and writes beside parameters: `partial` sums by chunk, `rows` of sums, and what each row's gradient is multiplied
/// by, `units`, or null.
struct Update {
  float* numbers;
  long long* updates;
  unsigned* ticket;
  double* partial;
  float *rows, *units;
  /// Gradients are clamped to this, if it is not 0.
  float clip_value;
  /// The first chunk of this launch among all; how many there are; the blocks that take a ticket, or 0.
  int first, chunks, blocks;
};

/// Moments that are means of a factored one, and the most places between first and last axis that it can have.
constexpr int kRowMeans = kMoments - 2, kColumnMeans = kMoments - 1, kMaxMeans = 64;

/// Formats of half precision.
enum { kNoFormat, kHalf, kBfloat };

/// Places in the numbers of an update.
enum { kRate, kEmaDecay, kLossScale, kGoodUpdates, kFactor, kSkip, kNorm, kClippedNorm, kFirstMemory };

namespace {

/// What the numbers of a parameter follow from.
struct Numbers {
  double updates, rate, base_rate, decay, norm, elements, row_length, axes, kept, is_factored, memory[kMemory];
  const double* sums;
};

/// What is known of an element, and of the row that it is in.
struct In {
  float w, g, m[kMoments], r[8], factored;
};

/// What becomes of it, and what it adds to sums over the parameter and by row.
struct Out {
  float w, m[kMoments], t[8], s[8];
};

__device__ __forceinline__ double larger(double a, double b) { return a != a || a > b ? a : b; }
__device__ __forceinline__ double smaller(double a, double b) { return a != a || a < b ? a : b; }

template <typename T> __device__ __forceinline__ T* pointer(unsigned long long address) { return reinterpret_cast<T*>(address); }

/// The parameter that a chunk belongs to: the last that begins at or before it.
__device__ __forceinline__ int owner(const Parameters& table, int chunk) {
  int low = 0, high = (int)table.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.of[middle].chunk <= chunk) low = middle;
    else high = middle - 1;
  }
  return low;
}

/// The elements of block blockIdx.x: one chunk of one parameter.
struct Chunk {
  const Parameter& of;
  long long first, end;

  __device__ explicit Chunk(const Parameters& table) : of(table.of[owner(table, blockIdx.x)]) {
    first = (long long)(blockIdx.x - of.chunk) * of.chunk_length;
    end = first + of.chunk_length < of.n ? first + of.chunk_length : of.n;
  }

  /// Chunks of its parameter.
  __device__ int count() const { return (int)((of.n + of.chunk_length - 1) / of.chunk_length); }
};

/// The sum over a block in a fixed tree, for thread 0; nothing for the others.
__device__ double block_sum(double value) {
  __shared__ double shared[kThreads];
  __syncthreads();
  shared[threadIdx.x] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  return threadIdx.x == 0 ? shared[0] : 0;
}

/// The sum over a warp in a fixed tree, for lane 0.
__device__ __forceinline__ float warp_sum(float value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  return value;
}

/// True for the last of so many blocks to come here, which sees what the others wrote before.
__device__ bool is_last(unsigned* ticket, int blocks) {
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

/// The rows of a chunk as a thread sees them: each is walked by as many threads as it has work for.
struct Rows {
  int first, end, step, lane, lanes;

  __device__ explicit Rows(const Chunk& chunk) {
    const int length = chunk.of.row_length;
    lanes = length >= 1024 ? kThreads : 32;
    lane = threadIdx.x % lanes;
    first = (int)(chunk.first / length) + threadIdx.x / lanes;
    end = (int)(chunk.end / length);
    step = kThreads / lanes;
  }

  /// Adds K values over the threads of a row, in a fixed tree; true for the one that has the sums.
  template <int K> __device__ bool sum(float (&values)[K]) const {
#pragma unroll
    for (int k = 0; k < K; k++) values[k] = lanes == 32 ? warp_sum(values[k]) : (float)block_sum(values[k]);
    return lane == 0;
  }
};

/// N adjacent values of a half-precision copy; N is 1 or 4, and 4 of them stand at a multiple of 8 bytes.
template <int N, typename H> __device__ __forceinline__ void store_copy(H* to, const float (&from)[N]) {
  struct alignas(N * sizeof(H)) Group {
    H v[N];
  } group;
#pragma unroll
  for (int k = 0; k < N; k++) group.v[k] = from_float<H>(from[k]);
  *reinterpret_cast<Group*>(to) = group;
}

/// What a launch applies to all elements alike.
struct Common {
  float factor, ema_decay, clip_value;
  /// Of a factored second moment.
  const float* means;
};

/// The mean of a factored second moment at each place between first and last axis, for all threads of a block.
__device__ void means_of(const Parameter& of, float* means) {
  const float* const columns = pointer<const float>(of.moments[kColumnMeans]);
  for (int b = 0; b < of.row_length / of.inner; b++) {
    double sum = 0;
    for (int i = threadIdx.x; i < of.inner; i += kThreads) sum += columns[b * of.inner + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) means[b] = (float)(sum / of.inner);
  }
  __syncthreads();
}

/// An element of a factored second moment.
__device__ __forceinline__ float factored_at(const Parameter& of, long long i, const float* means) {
  const int line = (int)(i / of.inner);
  const float row = pointer<const float>(of.moments[kRowMeans])[line] / means[line % (of.row_length / of.inner)];
  return row * pointer<const float>(of.moments[kColumnMeans])[i % of.row_length];
}

/// What a rule gives for N adjacent elements of a row, from i on.
template <typename R, int N>
__device__ __forceinline__ void elements(const Parameter& of, const Update& to, long long i, const float* u, const Common& c,
                                         Out (&out)[N]) {
  float w[N] = {}, g[N] = {}, m[kMoments][N] = {};
  if constexpr ((R::kReads & 1) != 0) load<N>(pointer<const float>(of.weights) + i, w);
  if constexpr ((R::kReads & 2) != 0) load<N>(pointer<const float>(of.gradient) + i, g);
#pragma unroll
  for (int k = 0; k < kMoments; k++) {
    if ((R::kReads & 4u << k) != 0 && (!R::kFactored || of.moments[k])) load<N>(pointer<const float>(of.moments[k]) + i, m[k]);
  }
  In x = {};
  float unit = 1;
  if (R::kReadRows != 0 || to.units) {
    const long long row = of.row + (int)(i / of.row_length);
    if (to.units) unit = to.units[row];
#pragma unroll
    for (int k = 0; k < R::kRows; k++) {
      if ((R::kReadRows & 1u << k) != 0) x.r[k] = to.rows[row * R::kRows + k];
    }
  }
#pragma unroll
  for (int k = 0; k < N; k++) {
    x.w = w[k];
    x.g = c.factor * g[k];
    if (c.clip_value != 0) x.g = fminf(fmaxf(x.g, -c.clip_value), c.clip_value);
    x.g *= unit;
    if (R::kFactored && of.moments[kRowMeans]) x.factored = factored_at(of, i + k, c.means);
#pragma unroll
    for (int j = 0; j < kMoments; j++) x.m[j] = m[j][k];
    R::element(u, x, out[k]);
  }
}

/// Writes what became of N adjacent elements.
template <typename R, int N>
__device__ __forceinline__ void write(const Parameter& of, long long i, const Common& c, const Out (&out)[N]) {
  float w[N], v[N];
#pragma unroll
  for (int k = 0; k < N; k++) {
    w[k] = out[k].w;
    if (of.round_format == kHalf) w[k] = to_float(from_float<half16>(w[k]));
    if (of.round_format == kBfloat) w[k] = to_float(from_float<bfloat16>(w[k]));
  }
  store<N>(pointer<float>(of.weights) + i, w);
#pragma unroll
  for (int j = 0; j < R::kWrites; j++) {
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = out[k].m[j];
    if (!R::kFactored || of.moments[j]) store<N>(pointer<float>(of.moments[j]) + i, v);
  }
  if (of.copy_format == kHalf) store_copy<N>(pointer<half16>(of.copy) + i, w);
  if (of.copy_format == kBfloat) store_copy<N>(pointer<bfloat16>(of.copy) + i, w);
  if (of.ema) {
    float* const average = pointer<float>(of.ema) + i;
    load<N>(average, v);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = c.ema_decay * v[k] + (1.0f - c.ema_decay) * w[k];
    store<N>(average, v);
  }
}

/// N adjacent elements: what they add to sums, and what becomes of them.
template <typename R, int N>
__device__ __forceinline__ void update_group(const Parameter& of, const Update& to, long long i, const float* u, const Common& c,
                                             float* totals) {
  Out out[N];
  elements<R, N>(of, to, i, u, c, out);
#pragma unroll
  for (int k = 0; k < N; k++) {
#pragma unroll
    for (int j = 0; j < R::kTotals - R::kOfRows; j++) totals[j] += out[k].t[j];
  }
  if constexpr (R::kWrites >= 0) write<R, N>(of, i, c, out);
}

/// Keeps the sums of a row, and adds to totals what follows from them.
template <typename R>
__device__ __forceinline__ void end_row(const Parameter& of, const Update& to, int row, const float* u,
                                        const float (&sums)[R::kRowSums], float* totals) {
  float* const at = to.rows + (long long)(of.row + row) * R::kRows;
  In x = {};
#pragma unroll
  for (int k = 0; k < R::kRows; k++) {
    if ((R::kEndReadsRows & 1u << k) != 0) x.r[k] = at[k];
  }
#pragma unroll
  for (int k = 0; k < R::kRowSums; k++) at[R::row_sum(k)] = x.r[R::row_sum(k)] = sums[k];
  R::end_row(u, x, totals);
}

/// The numbers of a block's parameter, for all of its threads.
template <typename R> __device__ void numbers_of(const Chunk& chunk, const Update& to, float* shared) {
  const Parameter& of = chunk.of;
  double sums[R::kSums > 0 ? R::kSums : 1];
#pragma unroll
  for (int k = 0; k < R::kSums; k++) {
    if ((R::kReadSums & 1u << k) == 0) continue;
    const double* const partial = to.partial + (long long)k * to.chunks + to.first + of.chunk;
    double sum = 0;
    for (int i = threadIdx.x; i < chunk.count(); i += kThreads) sum += partial[i];
    sums[k] = block_sum(sum);
  }
  if (threadIdx.x == 0) {
    Numbers n;
    const long long updates = *to.updates + 1;
    n.updates = (double)updates;
    n.base_rate = (double)to.numbers[kRate];
    n.rate = n.base_rate * (double)of.rate;
    n.decay = (double)of.decay;
    n.norm = (double)to.numbers[kClippedNorm];
    n.elements = (double)of.n;
    n.row_length = (double)of.row_length;
    n.axes = (double)of.axes;
    // Two places: what this update leaves behind does not stand where others still read.
    n.kept = of.kept ? (double)pointer<float>(of.kept)[(updates + 1) % 2] : 0;
    n.is_factored = of.moments[kRowMeans] != 0;
    for (int k = 0; k < kMemory; k++) n.memory[k] = (double)to.numbers[kFirstMemory + k];
    n.sums = sums;
    R::numbers(n, shared);
    if (R::kKept >= 0 && blockIdx.x == of.chunk) pointer<float>(of.kept)[updates % 2] = shared[R::kKept];
  }
  __syncthreads();
}

template <typename R> __device__ void stage(const Parameters& table, const Update& to) {
  if (to.numbers[kSkip] != 0) return;
  const Chunk chunk(table);
  const Parameter& of = chunk.of;
  __shared__ float u[R::kNumbers > 0 ? R::kNumbers : 1];
  numbers_of<R>(chunk, to, u);
  __shared__ float means[R::kFactored ? kMaxMeans : 1];
  if (R::kFactored && of.moments[kRowMeans]) means_of(of, means);
  const Common common = {to.numbers[kFactor], to.numbers[kEmaDecay], to.clip_value, means};
  float totals[R::kTotals > 0 ? R::kTotals : 1] = {};
  if constexpr (R::kRowSums > 0) {
    const Rows rows(chunk);
    for (int row = rows.first; row < rows.end; row += rows.step) {
      float sums[R::kRowSums] = {};
      for (int i = rows.lane; i < of.row_length; i += rows.lanes) {
        Out out[1];
        elements<R, 1>(of, to, (long long)row * of.row_length + i, u, common, out);
#pragma unroll
        for (int k = 0; k < R::kRowSums; k++) sums[k] += out[0].s[k];
#pragma unroll
        for (int k = 0; k < R::kTotals - R::kOfRows; k++) totals[k] += out[0].t[k];
      }
      if (rows.sum(sums)) end_row<R>(of, to, row, u, sums, totals);
    }
  } else {
    constexpr int N = Pack<float>::N;
    unsigned long long all = of.weights | of.gradient | of.ema | (of.copy << 1) | (unsigned long long)(chunk.first * sizeof(float));
    for (int k = 0; k < kMoments; k++) all |= of.moments[k];
    const bool in_rows = (R::kReadRows != 0 || to.units) && of.row_length % N != 0;
    const long long split = all % 16 == 0 && !in_rows ? chunk.end - (chunk.end - chunk.first) % N : chunk.first;
    for (long long i = chunk.first + threadIdx.x * N; i < split; i += kThreads * N) update_group<R, N>(of, to, i, u, common, totals);
    for (long long i = split + threadIdx.x; i < chunk.end; i += kThreads) update_group<R, 1>(of, to, i, u, common, totals);
  }
#pragma unroll
  for (int k = 0; k < R::kTotals; k++) {
    const double total = block_sum(totals[k]);
    if (threadIdx.x == 0) to.partial[(long long)R::total(k) * to.chunks + to.first + blockIdx.x] = total;
  }
  if (R::kWrites < 0 || to.blocks == 0 || !is_last(to.ticket, to.blocks) || threadIdx.x != 0) return;
  *to.updates += 1;
  for (int k = 0; k < R::kMemory; k++) to.numbers[kFirstMemory + k] = u[R::memory(k)];
}

}  // namespace
