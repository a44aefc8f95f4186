// Multi-tensor optimizer updates: many f32 parameters in one launch. The parameter table is passed by value, so that a captured launch is
// self-contained; values that change from step to step (learning rate, loss scale, step count) are in device memory.
//
// A rule runs in stages. All but the last compute sums over parameters and their rows; the last writes weights, moments, EMA and
// low-precision copy in one pass. A stage is `stage<Rule>` with a generated Rule (`engine/src/fuse/update_source.rs`): the scalars of a
// parameter, computed once per block in double, and functions of single elements. Sums are merged by each block that reads them, in an
// order that depends on shapes alone; the last block to finish increments the step count.
#pragma once
#include "arguments.cuh"
#include "fuse.cuh"

/// Moments that hold the row and column means of a factored second moment, and the maximum product of its axes between first and last.
constexpr int kRowMeans = kMoments - 2, kColumnMeans = kMoments - 1;

namespace {

/// Inputs of a rule's scalar computations for one parameter.
struct RuleScalars {
  double step, lr, base_lr, weight_decay, grad_norm, numel, row_length, ndim, param_scalar, is_factored, shared_scalars[kMaxSharedScalars];
  const double* sums;
};

/// Inputs of a rule for one element: weight, gradient, moments, sums of its row, and its factored second moment.
struct In {
  float w, g, m[kMoments], r[8], factored;
};

/// Outputs of a rule for one element: weight, moments, and its contributions to sums over the parameter (t) and over the row (s).
struct Out {
  float w, m[kMoments], t[8], s[8];
};

__device__ __forceinline__ double larger(double a, double b) { return a != a || a > b ? a : b; }
__device__ __forceinline__ double smaller(double a, double b) { return a != a || a < b ? a : b; }

template <typename T> __device__ __forceinline__ T* pointer(unsigned long long address) { return reinterpret_cast<T*>(address); }

/// Index of the parameter that a chunk belongs to: the last one whose first chunk is at or before it.
__device__ __forceinline__ int parameter_of_chunk(const ParameterTable& table, int chunk) {
  int low = 0, high = (int)table.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.entries[middle].chunk <= chunk) low = middle;
    else high = middle - 1;
  }
  return low;
}

/// Chunk of block blockIdx.x: elements [first, end) of one parameter.
struct Chunk {
  const Parameter& of;
  long long first, end;

  __device__ explicit Chunk(const ParameterTable& table) : of(table.entries[parameter_of_chunk(table, blockIdx.x)]) {
    first = (long long)(blockIdx.x - of.chunk) * of.chunk_length;
    end = first + of.chunk_length < of.n ? first + of.chunk_length : of.n;
  }

  /// Number of chunks of its parameter.
  __device__ int count() const { return (int)((of.n + of.chunk_length - 1) / of.chunk_length); }
};

/// Sum over a block in a fixed tree, returned to thread 0; 0 for the others.
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

/// Sum over a warp in a fixed tree, valid in lane 0.
__device__ __forceinline__ float warp_sum(float value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  return value;
}

/// Mapping of a block's threads to the rows of a chunk: a warp per row, or the whole block for rows of 1024 elements and more.
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

  /// Sums K values over the threads of a row, in a fixed tree; true in the thread that receives the sums.
  template <int K> __device__ bool sum(float (&values)[K]) const {
#pragma unroll
    for (int k = 0; k < K; k++) values[k] = lanes == 32 ? warp_sum(values[k]) : (float)block_sum(values[k]);
    return lane == 0;
  }
};

/// Rounds and stores N adjacent values of a low-precision copy; N is 1 or 4, and 4 values are aligned to 8 bytes.
template <int N, typename H> __device__ __forceinline__ void store_low_precision(H* to, const float (&from)[N]) {
  struct alignas(N * sizeof(H)) Group {
    H v[N];
  } group;
#pragma unroll
  for (int k = 0; k < N; k++) group.v[k] = from_float<H>(from[k]);
  *reinterpret_cast<Group*>(to) = group;
}

/// Loads N adjacent values in half precision; N is 1 or 4, and 4 values are aligned to 8 bytes.
template <int N, typename H> __device__ __forceinline__ void load_low_precision(const H* from, float (&to)[N]) {
  struct alignas(N * sizeof(H)) Group {
    H v[N];
  };
  const Group group = *reinterpret_cast<const Group*>(from);
#pragma unroll
  for (int k = 0; k < N; k++) to[k] = to_float(group.v[k]);
}

/// True if four elements of the gradient, starting at i, can be loaded at once.
__device__ __forceinline__ bool has_packed_gradient(const Parameter& of, long long i) {
  const int bytes = of.gradient_format == kNoFormat ? sizeof(float) : sizeof(half16);
  return (of.gradient + i * bytes) % (Pack<float>::N * bytes) == 0;
}

/// Loads N adjacent elements of the gradient, starting at i.
template <int N> __device__ __forceinline__ void load_gradient(const Parameter& of, long long i, float (&g)[N]) {
  if (of.gradient_format == kHalf) load_low_precision<N>(pointer<const half16>(of.gradient) + i, g);
  else if (of.gradient_format == kBfloat) load_low_precision<N>(pointer<const bfloat16>(of.gradient) + i, g);
  else load<N>(pointer<const float>(of.gradient) + i, g);
}

/// Values that are the same for all elements of a block.
struct Common {
  float grad_factor, ema_complement, clip_value;
  /// Means of the column means of a factored second moment.
  const float* means;
};

/// Means of a factored second moment over first and last axis, one per index of the axes between; visible to all threads of the block.
__device__ void factored_means(const Parameter& of, float* means) {
  const float* const columns = pointer<const float>(of.moments[kColumnMeans]);
  for (int b = 0; b < of.row_length / of.inner; b++) {
    double sum = 0;
    for (int i = threadIdx.x; i < of.inner; i += kThreads) sum += columns[b * of.inner + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) means[b] = (float)(sum / of.inner);
  }
  __syncthreads();
}

/// Element i of the second moment, from its factors.
__device__ __forceinline__ float factored_at(const Parameter& of, long long i, const float* means) {
  const int line = (int)(i / of.inner);
  const float row = pointer<const float>(of.moments[kRowMeans])[line] / means[line % (of.row_length / of.inner)];
  return row * pointer<const float>(of.moments[kColumnMeans])[i % of.row_length];
}

/// Evaluates a rule for N adjacent elements of a row, starting at i.
template <typename R, int N>
__device__ __forceinline__ void evaluate(const Parameter& of, const UpdateArgs& args, long long i, const float* u, const Common& c,
                                         Out (&out)[N]) {
  float w[N] = {}, g[N] = {}, m[kMoments][N] = {};
  if constexpr ((R::kReads & 1) != 0) load<N>(pointer<const float>(of.weights) + i, w);
  if constexpr ((R::kReads & 2) != 0) load_gradient<N>(of, i, g);
#pragma unroll
  for (int k = 0; k < kMoments; k++) {
    if ((R::kReads & 4u << k) != 0 && (!R::kFactored || of.moments[k])) load<N>(pointer<const float>(of.moments[k]) + i, m[k]);
  }
  In x = {};
  float agc_scale = 1;
  if (R::kReadRows != 0 || args.agc_scale) {
    const long long row = of.row + (int)(i / of.row_length);
    if (args.agc_scale) agc_scale = args.agc_scale[row];
#pragma unroll
    for (int k = 0; k < R::kRows; k++) {
      if ((R::kReadRows & 1u << k) != 0) x.r[k] = args.row_sums[row * R::kRows + k];
    }
  }
#pragma unroll
  for (int k = 0; k < N; k++) {
    x.w = w[k];
    x.g = c.grad_factor * g[k];
    if (c.clip_value != 0) x.g = fminf(fmaxf(x.g, -c.clip_value), c.clip_value);
    x.g *= agc_scale;
    if (R::kFactored && of.moments[kRowMeans]) x.factored = factored_at(of, i + k, c.means);
#pragma unroll
    for (int j = 0; j < kMoments; j++) x.m[j] = m[j][k];
    R::element(u, x, out[k]);
  }
}

/// Updates the EMA of N adjacent elements: decay * ema + (1 - decay) * w, with the complement of the decay.
template <int N> __device__ __forceinline__ void average(const Parameter& of, long long i, float complement, const float (&w)[N]) {
  float* const ema = pointer<float>(of.ema) + i;
  float v[N];
  load<N>(ema, v);
#pragma unroll
  for (int k = 0; k < N; k++) v[k] = (1.0f - complement) * v[k] + complement * w[k];
  store<N>(ema, v);
}

/// Updates the EMA of a chunk after a skipped update.
__device__ void average_unchanged(const Chunk& chunk, float complement) {
  const Parameter& of = chunk.of;
  if (!of.ema) return;
  for (long long i = chunk.first + threadIdx.x; i < chunk.end; i += kThreads) {
    average<1>(of, i, complement, {pointer<float>(of.weights)[i]});
  }
}

/// Stores the new weights, moments, low-precision copies and EMA of N adjacent elements.
template <typename R, int N>
__device__ __forceinline__ void store_outputs(const Parameter& of, long long i, const Common& c, const Out (&out)[N]) {
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
  if (of.low_precision_format == kHalf) store_low_precision<N>(pointer<half16>(of.low_precision) + i, w);
  if (of.low_precision_format == kBfloat) store_low_precision<N>(pointer<bfloat16>(of.low_precision) + i, w);
  if (of.ema) average<N>(of, i, c.ema_complement, w);
}

/// Evaluates a rule for N adjacent elements, adds their contributions to totals, and stores the outputs in the last stage.
template <typename R, int N>
__device__ __forceinline__ void update_group(const Parameter& of, const UpdateArgs& args, long long i, const float* u, const Common& c,
                                             float* totals) {
  Out out[N];
  evaluate<R, N>(of, args, i, u, c, out);
#pragma unroll
  for (int k = 0; k < N; k++) {
#pragma unroll
    for (int j = 0; j < R::kTotals - R::kOfRows; j++) totals[j] += out[k].t[j];
  }
  if constexpr (R::kWrites >= 0) store_outputs<R, N>(of, i, c, out);
}

/// Stores the sums of a row, and adds the contributions that the rule derives from them to totals.
template <typename R>
__device__ __forceinline__ void end_row(const Parameter& of, const UpdateArgs& args, int row, const float* u,
                                        const float (&sums)[R::kRowSums], float* totals) {
  float* const at = args.row_sums + (long long)(of.row + row) * R::kRows;
  In x = {};
#pragma unroll
  for (int k = 0; k < R::kRows; k++) {
    if ((R::kEndReadsRows & 1u << k) != 0) x.r[k] = at[k];
  }
#pragma unroll
  for (int k = 0; k < R::kRowSums; k++) at[R::row_sum(k)] = x.r[R::row_sum(k)] = sums[k];
  R::end_row(u, x, totals);
}

/// Computes the scalars of a block's parameter into shared memory; visible to all threads of the block.
template <typename R> __device__ void compute_scalars(const Chunk& chunk, const UpdateArgs& args, float* shared) {
  const Parameter& of = chunk.of;
  double sums[R::kSums > 0 ? R::kSums : 1];
#pragma unroll
  for (int k = 0; k < R::kSums; k++) {
    if ((R::kReadSums & 1u << k) == 0) continue;
    const double* const partial = args.partial + (long long)k * args.chunks + args.first_chunk + of.chunk;
    double sum = 0;
    for (int i = threadIdx.x; i < chunk.count(); i += kThreads) sum += partial[i];
    sums[k] = block_sum(sum);
  }
  if (threadIdx.x == 0) {
    RuleScalars n;
    const long long step = *args.step + 1;
    n.step = (double)step;
    n.base_lr = (double)args.scalars[kLr];
    n.lr = n.base_lr * (double)of.lr_scale;
    n.weight_decay = (double)of.weight_decay;
    n.grad_norm = (double)args.scalars[kClippedNorm];
    n.numel = (double)of.n;
    n.row_length = (double)of.row_length;
    n.ndim = (double)of.ndim;
    // Double-buffered: this update's value must not overwrite the one that other blocks still read.
    n.param_scalar = of.param_scalar ? (double)pointer<float>(of.param_scalar)[(step + 1) % 2] : 0;
    n.is_factored = of.moments[kRowMeans] != 0;
    for (int k = 0; k < kMaxSharedScalars; k++) n.shared_scalars[k] = (double)args.scalars[kFirstSharedScalar + k];
    n.sums = sums;
    R::scalars(n, shared);
    if (R::kParamScalar >= 0 && blockIdx.x == of.chunk) pointer<float>(of.param_scalar)[step % 2] = shared[R::kParamScalar];
  }
  __syncthreads();
}

template <typename R> __device__ void stage(const ParameterTable& table, const UpdateArgs& args) {
  const Chunk chunk(table);
  if (args.scalars[kSkip] != 0) {
    if constexpr (R::kWrites >= 0) average_unchanged(chunk, args.scalars[kEmaComplement]);
    return;
  }
  const Parameter& of = chunk.of;
  __shared__ float u[R::kScalars > 0 ? R::kScalars : 1];
  compute_scalars<R>(chunk, args, u);
  __shared__ float means[R::kFactored ? kMaxMeans : 1];
  if (R::kFactored && of.moments[kRowMeans]) factored_means(of, means);
  const Common common = {args.scalars[kGradFactor], args.scalars[kEmaComplement], args.clip_value, means};
  float totals[R::kTotals > 0 ? R::kTotals : 1] = {};
  if constexpr (R::kRowSums > 0) {
    const Rows rows(chunk);
    for (int row = rows.first; row < rows.end; row += rows.step) {
      float sums[R::kRowSums] = {};
      for (int i = rows.lane; i < of.row_length; i += rows.lanes) {
        Out out[1];
        evaluate<R, 1>(of, args, (long long)row * of.row_length + i, u, common, out);
#pragma unroll
        for (int k = 0; k < R::kRowSums; k++) sums[k] += out[0].s[k];
#pragma unroll
        for (int k = 0; k < R::kTotals - R::kOfRows; k++) totals[k] += out[0].t[k];
      }
      if (rows.sum(sums)) end_row<R>(of, args, row, u, sums, totals);
    }
  } else {
    constexpr int N = Pack<float>::N;
    unsigned long long all = of.weights | of.ema | (of.low_precision << 1) | (unsigned long long)(chunk.first * sizeof(float));
    for (int k = 0; k < kMoments; k++) all |= of.moments[k];
    const bool in_rows = (R::kReadRows != 0 || args.agc_scale) && of.row_length % N != 0;
    const bool packed = all % 16 == 0 && has_packed_gradient(of, chunk.first) && !in_rows;
    const long long split = packed ? chunk.end - (chunk.end - chunk.first) % N : chunk.first;
    for (long long i = chunk.first + threadIdx.x * N; i < split; i += kThreads * N) update_group<R, N>(of, args, i, u, common, totals);
    for (long long i = split + threadIdx.x; i < chunk.end; i += kThreads) update_group<R, 1>(of, args, i, u, common, totals);
  }
#pragma unroll
  for (int k = 0; k < R::kTotals; k++) {
    const double total = block_sum(totals[k]);
    if (threadIdx.x == 0) args.partial[(long long)R::total(k) * args.chunks + args.first_chunk + blockIdx.x] = total;
  }
  if (R::kWrites < 0 || args.blocks == 0 || !is_last(args.ticket, args.blocks) || threadIdx.x != 0) return;
  *args.step += 1;
  for (int k = 0; k < R::kSharedScalars; k++) args.scalars[kFirstSharedScalar + k] = u[R::shared_scalar(k)];
}

}  // namespace
