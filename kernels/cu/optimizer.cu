// What an update knows of gradients before a rule sees them. Where they are scaled or clipped, `gradients_look` sums their squares by
// chunks, and by rows for adaptive clipping (Brock et al., "High-performance large-scale image recognition without normalization", 2021).
// The last block merges these, finds overflow, moves the loss scale, and leaves the factor of all gradients.
#include "optimizer.cuh"

/// How a look treats gradients; zero for what is not asked for.
struct Decision {
  float growth, backoff, floor, clip_norm, clip_units;
  int interval, scales;
};

namespace {

/// Moves the loss scale after a look at scaled gradients; true when they overflowed.
__device__ bool scale_next(const Decision& d, double total, float* numbers) {
  const float scale = numbers[kLossScale];
  const bool overflow = !(total - total == 0);
  const int good = overflow ? 0 : (int)numbers[kGoodUpdates] + 1;
  const bool grows = good >= d.interval;
  const float grown = scale * d.growth;
  if (overflow) numbers[kLossScale] = fmaxf(scale * d.backoff, d.floor);
  else if (grows && grown - grown == 0) numbers[kLossScale] = grown;
  numbers[kGoodUpdates] = grows ? 0 : good;
  return overflow;
}

/// What the next update does, given sums of squares of the gradients, unscaled, and of what clipping elements or rows leaves of them. The
/// CPU's `decide` does the same.
__device__ void decide(const Decision& d, double total, double clipped, float* numbers) {
  double factor = 1.0 / (double)numbers[kLossScale];
  double norm = sqrt(total), left = sqrt(clipped);
  numbers[kNorm] = (float)norm;
  if (d.clip_norm > 0) {
    const double clip = (double)d.clip_norm / (norm + 1e-6);
    if (clip < 1) {
      factor *= clip;
      left *= clip;
    }
  }
  const bool skip = d.scales && scale_next(d, total, numbers);
  numbers[kFactor] = (float)factor;
  numbers[kSkip] = skip ? 1 : 0;
  numbers[kClippedNorm] = (float)left;
}

/// Ends a look: keeps the block's sums, and decides in the last block.
__device__ void end_look(const Update& to, const Decision& d, double total, double clipped) {
  total = block_sum(total);
  clipped = block_sum(clipped);
  if (threadIdx.x == 0) {
    to.partial[to.first + blockIdx.x] = total;
    to.partial[to.chunks + to.first + blockIdx.x] = clipped;
  }
  if (!is_last(to.ticket, to.blocks)) return;
  double sums[2] = {};
  for (int i = threadIdx.x; i < to.chunks; i += kThreads) {
    sums[0] += to.partial[i];
    sums[1] += to.partial[to.chunks + i];
  }
  total = block_sum(sums[0]);
  clipped = block_sum(sums[1]);
  if (threadIdx.x == 0) decide(d, total, clipped, to.numbers);
}

/// Adds the squares of a gradient, and of what is left of it when it is clamped.
__device__ __forceinline__ void add_square(float g, double factor, float limit, double& total, double& clipped) {
  const double square = (g * factor) * (g * factor), most = (double)limit * (double)limit;
  total += square;
  clipped += limit != 0 && square > most ? most : square;
}

}  // namespace

KERNEL gradients_look_f32(Parameters table, Update to, Decision d) {
  const Chunk chunk(table);
  const float* const g = pointer<const float>(chunk.of.gradient);
  const double factor = 1.0 / (double)to.numbers[kLossScale];
  constexpr int N = Pack<float>::N;
  const long long split = aligned(g + chunk.first) ? chunk.end - (chunk.end - chunk.first) % N : chunk.first;
  double total = 0, clipped = 0;
  for (long long i = chunk.first + threadIdx.x * N; i < split; i += kThreads * N) {
    float v[N];
    load<N>(g + i, v);
#pragma unroll
    for (int k = 0; k < N; k++) add_square(v[k], factor, to.clip_value, total, clipped);
  }
  for (long long i = split + threadIdx.x; i < chunk.end; i += kThreads) add_square(g[i], factor, to.clip_value, total, clipped);
  end_look(to, d, total, clipped);
}

/// As `gradients_look`, and units[row]: what the gradient of a row is multiplied by, such that its norm is at most `clip_units` times that
/// of the row's weights.
KERNEL gradients_look_units_f32(Parameters table, Update to, Decision d) {
  const Chunk chunk(table);
  const float* const g = pointer<const float>(chunk.of.gradient);
  const float* const w = pointer<const float>(chunk.of.weights);
  const double factor = 1.0 / (double)to.numbers[kLossScale];
  const Rows rows(chunk);
  double total = 0, clipped = 0;
  for (int row = rows.first; row < rows.end; row += rows.step) {
    float sums[2] = {};
    for (int i = rows.lane; i < chunk.of.row_length; i += rows.lanes) {
      const long long at = (long long)row * chunk.of.row_length + i;
      const float scaled = (float)(g[at] * factor);
      sums[0] += scaled * scaled;
      sums[1] += w[at] * w[at];
    }
    if (!rows.sum(sums)) continue;
    const float norm = sqrtf(sums[0]), limit = d.clip_units * fmaxf(sqrtf(sums[1]), 1e-3f);
    const float unit = chunk.of.clips && !(norm < limit) ? limit / fmaxf(norm, 1e-6f) : 1.0f;
    to.units[chunk.of.row + row] = unit;
    total += sums[0];
    clipped += (double)sums[0] * unit * unit;
  }
  end_look(to, d, total, clipped);
}
