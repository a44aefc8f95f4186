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

/// The square of a gradient that is unscaled and clipped.
__device__ __forceinline__ float square_at(const Parameter& of, const Update& to, long long i) {
  float g = to.numbers[kFactor] * pointer<const float>(of.gradient)[i];
  if (to.clip_value != 0) g = fminf(fmaxf(g, -to.clip_value), to.clip_value);
  if (to.units) g *= to.units[of.row + (int)(i / of.row_length)];
  return g * g;
}

}  // namespace

/// How means of squares are followed: update t takes the share t^decay_rate of the new ones.
struct Factors {
  double decay_rate, eps;
};

/// Adafactor's factored second moment (Shazeer and Stern, 2018): follows the means of g^2 + eps over the last axis, for the lines of a
/// block's chunk, and over the first axis, for its share of the columns.
KERNEL factor_moments_f32(Parameters table, Update to, Factors how) {
  const Chunk chunk(table);
  const Parameter& of = chunk.of;
  if (to.numbers[kSkip] != 0 || !of.moments[kRowMeans]) return;
  __shared__ float share, shared[kThreads];
  if (threadIdx.x == 0) share = (float)pow((double)(*to.updates + 1), how.decay_rate);
  __syncthreads();
  const float eps = (float)how.eps;
  float* const lines = pointer<float>(of.moments[kRowMeans]);
  const int end = (int)(chunk.end / of.inner);
  for (int line = (int)(chunk.first / of.inner) + threadIdx.x / 32; line < end; line += kThreads / 32) {
    float sum = 0;
    for (int i = threadIdx.x % 32; i < of.inner; i += 32) sum += square_at(of, to, (long long)line * of.inner + i);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) lines[line] += share * (sum / of.inner + eps - lines[line]);
  }
  float* const columns = pointer<float>(of.moments[kColumnMeans]);
  const int rows = (int)(of.n / of.row_length), strip = (of.row_length + chunk.count() - 1) / chunk.count();
  const int first = (blockIdx.x - of.chunk) * strip, last = min(first + strip, of.row_length);
  for (int at = first; at < last; at += kThreads) {
    // As many threads a column as there are, each with every so manieth row.
    const int width = min(last - at, kThreads), lanes = kThreads / width;
    const int column = at + threadIdx.x % width, lane = threadIdx.x / width;
    float sum = 0;
    for (int row = lane; row < rows && lane < lanes; row += lanes) sum += square_at(of, to, (long long)row * of.row_length + column);
    __syncthreads();
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < width) {
      for (int k = 1; k < lanes; k++) sum += shared[k * width + threadIdx.x];
      columns[column] += share * (sum / rows + eps - columns[column]);
    }
  }
}

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
