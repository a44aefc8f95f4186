// Gradient norm, gradient clipping and dynamic loss scaling, before the optimizer's rule runs. If gradients are scaled or clipped,
// `gradient_norm` sums their squares by chunks, and by rows for adaptive gradient clipping (AGC; Brock et al., "High-performance
// large-scale image recognition without normalization", 2021). The last block merges the sums, detects overflow, updates the loss scale,
// and stores the factor of all gradients.
#include "optimizer.cuh"

namespace {

/// Updates the loss scale; true when a gradient overflowed.
__device__ bool update_loss_scale(const GradOptions& o, double total, float* scalars) {
  const float scale = scalars[kLossScale];
  const bool overflow = !(total - total == 0);
  const int good = overflow ? 0 : (int)scalars[kGoodUpdates] + 1;
  const bool grows = good >= o.growth_interval;
  const float grown = scale * o.growth_factor;
  if (overflow) scalars[kLossScale] = fmaxf(scale * o.backoff_factor, o.min_scale);
  else if (grows && grown - grown == 0) scalars[kLossScale] = grown;
  scalars[kGoodUpdates] = grows ? 0 : good;
  return overflow;
}

/// Sets gradient norm, gradient factor and the skip flag from the sums of squares of the unscaled gradients before (`total`) and after
/// (`clipped`) clipping by value or AGC. `decide` on the CPU does the same.
__device__ void decide(const GradOptions& o, double total, double clipped, float* scalars) {
  double factor = 1.0 / (double)scalars[kLossScale];
  double norm = sqrt(total), clipped_norm = sqrt(clipped);
  scalars[kGradNorm] = (float)norm;
  if (o.clip_norm > 0) {
    const double clip = (double)o.clip_norm / (norm + 1e-6);
    if (clip < 1) {
      factor *= clip;
      clipped_norm *= clip;
    }
  }
  const bool skip = o.loss_scaling && update_loss_scale(o, total, scalars);
  scalars[kGradFactor] = (float)factor;
  scalars[kSkip] = skip ? 1 : 0;
  scalars[kClippedNorm] = (float)clipped_norm;
}

/// Stores the block's sums; the last block merges those of all blocks and calls `decide`.
__device__ void finish_norm(const UpdateArgs& args, const GradOptions& o, double total, double clipped) {
  total = block_sum(total);
  clipped = block_sum(clipped);
  if (threadIdx.x == 0) {
    args.partial[args.first_chunk + blockIdx.x] = total;
    args.partial[args.chunks + args.first_chunk + blockIdx.x] = clipped;
  }
  if (!is_last(args.ticket, args.blocks)) return;
  double sums[2] = {};
  for (int i = threadIdx.x; i < args.chunks; i += kThreads) {
    sums[0] += args.partial[i];
    sums[1] += args.partial[args.chunks + i];
  }
  total = block_sum(sums[0]);
  clipped = block_sum(sums[1]);
  if (threadIdx.x == 0) decide(o, total, clipped, args.scalars);
}

/// Adds the square of an unscaled gradient to `total`, and that of the gradient clamped to +-limit to `clipped`.
__device__ __forceinline__ void add_square(float g, double factor, float limit, double& total, double& clipped) {
  const double square = (g * factor) * (g * factor), most = (double)limit * (double)limit;
  total += square;
  clipped += limit != 0 && square > most ? most : square;
}

/// Element i of the gradient.
__device__ __forceinline__ float gradient_at(const Parameter& of, long long i) {
  float g[1];
  load_gradient(of, i, g);
  return g[0];
}

/// Square of gradient i, unscaled and clipped.
__device__ __forceinline__ float square_at(const Parameter& of, const UpdateArgs& args, long long i) {
  float g = args.scalars[kGradFactor] * gradient_at(of, i);
  if (args.clip_value != 0) g = fminf(fmaxf(g, -args.clip_value), args.clip_value);
  if (args.agc_scale) g *= args.agc_scale[of.row + (int)(i / of.row_length)];
  return g * g;
}

}  // namespace

/// Adafactor's factored second moment (Shazeer and Stern, 2018): running means of g^2 + eps over the last axis, for the lines of a
/// block's chunk, and over the first axis, for the block's range of columns.
KERNEL factor_moments_f32(const __grid_constant__ ParameterTable table, const __grid_constant__ UpdateArgs args, FactoredOptions options) {
  const Chunk chunk(table);
  const Parameter& of = chunk.of;
  if (args.scalars[kSkip] != 0 || !of.moments[kRowMeans]) return;
  __shared__ float new_weight, shared[kThreads];
  if (threadIdx.x == 0) new_weight = (float)pow((double)(*args.step + 1), options.decay_rate);
  __syncthreads();
  const float eps = (float)options.eps;
  float* const lines = pointer<float>(of.moments[kRowMeans]);
  const int end = (int)(chunk.end / of.inner);
  for (int line = (int)(chunk.first / of.inner) + threadIdx.x / 32; line < end; line += kThreads / 32) {
    float sum = 0;
    for (int i = threadIdx.x % 32; i < of.inner; i += 32) sum += square_at(of, args, (long long)line * of.inner + i);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) lines[line] += new_weight * (sum / of.inner + eps - lines[line]);
  }
  float* const columns = pointer<float>(of.moments[kColumnMeans]);
  const int rows = (int)(of.n / of.row_length), strip = (of.row_length + chunk.count() - 1) / chunk.count();
  const int first = (blockIdx.x - of.chunk) * strip, last = min(first + strip, of.row_length);
  for (int at = first; at < last; at += kThreads) {
    // Each column gets `lanes` threads; a thread takes every `lanes`-th row.
    const int width = min(last - at, kThreads), lanes = kThreads / width;
    const int column = at + threadIdx.x % width, lane = threadIdx.x / width;
    float sum = 0;
    for (int row = lane; row < rows && lane < lanes; row += lanes) sum += square_at(of, args, (long long)row * of.row_length + column);
    __syncthreads();
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < width) {
      for (int k = 1; k < lanes; k++) sum += shared[k * width + threadIdx.x];
      columns[column] += new_weight * (sum / rows + eps - columns[column]);
    }
  }
}

/// Norm of all gradients, and loss scaling and clipping decisions.
KERNEL gradient_norm_f32(const __grid_constant__ ParameterTable table, const __grid_constant__ UpdateArgs args, GradOptions options) {
  const Chunk chunk(table);
  const double factor = 1.0 / (double)args.scalars[kLossScale];
  constexpr int N = Pack<float>::N;
  const bool packed = has_packed_gradient(chunk.of, chunk.first);
  const long long split = packed ? chunk.end - (chunk.end - chunk.first) % N : chunk.first;
  double total = 0, clipped = 0;
  for (long long i = chunk.first + threadIdx.x * N; i < split; i += kThreads * N) {
    float v[N];
    load_gradient<N>(chunk.of, i, v);
#pragma unroll
    for (int k = 0; k < N; k++) add_square(v[k], factor, args.clip_value, total, clipped);
  }
  for (long long i = split + threadIdx.x; i < chunk.end; i += kThreads) {
    add_square(gradient_at(chunk.of, i), factor, args.clip_value, total, clipped);
  }
  finish_norm(args, options, total, clipped);
}

/// `gradient_norm` with adaptive gradient clipping: also stores agc_scale[row] such that the gradient norm of a row is at most `agc_clip`
/// times the norm of its weights (at least 1e-3).
KERNEL gradient_norm_agc_f32(const __grid_constant__ ParameterTable table, const __grid_constant__ UpdateArgs args, GradOptions options) {
  const Chunk chunk(table);
  const float* const w = pointer<const float>(chunk.of.weights);
  const double factor = 1.0 / (double)args.scalars[kLossScale];
  const Rows rows(chunk);
  double total = 0, clipped = 0;
  for (int row = rows.first; row < rows.end; row += rows.step) {
    float sums[2] = {};
    for (int i = rows.lane; i < chunk.of.row_length; i += rows.lanes) {
      const long long at = (long long)row * chunk.of.row_length + i;
      const float scaled = (float)(gradient_at(chunk.of, at) * factor);
      sums[0] += scaled * scaled;
      sums[1] += w[at] * w[at];
    }
    if (!rows.sum(sums)) continue;
    const float norm = sqrtf(sums[0]), limit = options.agc_clip * fmaxf(sqrtf(sums[1]), 1e-3f);
    const float agc_scale = chunk.of.adaptive_clip && !(norm < limit) ? limit / fmaxf(norm, 1e-6f) : 1.0f;
    args.agc_scale[chunk.of.row + row] = agc_scale;
    total += sums[0];
    clipped += (double)sums[0] * agc_scale * agc_scale;
  }
  finish_norm(args, options, total, clipped);
}
