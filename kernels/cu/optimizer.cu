// Updates of many f32 parameters in one launch. The table of parameters travels by value, so that a captured launch holds all it needs;
// what changes from step to step (rates, loss scale, counters) is in memory.
//
// Where gradients are scaled or clipped, `gradients_look` sums their squares by chunks. `update_decide`, one block, merges these, finds
// overflow, moves the loss scale, counts, and leaves the numbers that the update reads. The update then unscales, clips, follows its
// rule, averages and rounds to the half-precision copy in one pass: it reads and writes every element once.
#include "channels.cuh"

constexpr int kParameters = 320;

/// A parameter as an update sees it: addresses of its elements, its gradient, up to two moments, averaged weights and a copy in half
/// precision, the last two null where there are none.
struct Parameter {
  unsigned long long weights, gradient, moments[2], ema, copy;
  long long n;
  /// The first of the chunks that are its own.
  int chunk;
  float decay;
  /// Formats of the copy and of what the weights are rounded to.
  int copy_format, round_format;
};

struct Parameters {
  int count, chunk;
  Parameter of[kParameters];
};

/// Formats of half precision.
enum { kNoFormat, kHalf, kBfloat };

/// Places in the numbers of an update.
enum { kRate, kEmaDecay, kLossScale, kGoodUpdates, kFactor, kSkip, kNorm, kSize, kRoot };

/// How `update_decide` treats gradients; zero for what is not asked for.
struct Decision {
  double beta1, beta2;
  float growth, backoff, floor, clip_norm;
  int interval, looks, scales, corrects;
};

namespace {

/// SGD (Sutskever et al., 2013) in PyTorch's form: g += decay p; b = momentum b + g; p -= lr (g + momentum b, or b).
struct Sgd {
  float lr, momentum, decay;
  int nesterov;
  __device__ __forceinline__ void update(float& p, float g, float& b, float&) const {
    g = g + decay * p;
    b = momentum * b + g;
    p -= lr * (nesterov ? g + momentum * b : b);
  }
};

/// AdamW (Loshchilov and Hutter, 2019): `size` is lr / (1 - beta1^t), `root` sqrt(1 - beta2^t), `keep` 1 - lr * weight decay.
struct AdamW {
  float size, root, eps, beta1, beta2, rest1, rest2, keep;
  __device__ __forceinline__ void update(float& p, float g, float& m, float& v) const {
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    p = p * keep - size * m / (sqrtf(v) / root + eps);
  }
};

/// The parameter that a chunk belongs to: the last that begins at or before it.
__device__ __forceinline__ int owner(const Parameters& table, int chunk) {
  int low = 0, high = table.count - 1;
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
    first = (long long)(blockIdx.x - of.chunk) * table.chunk;
    end = first + table.chunk < of.n ? first + table.chunk : of.n;
  }
};

template <typename T> __device__ __forceinline__ T* pointer(unsigned long long address) { return reinterpret_cast<T*>(address); }

/// N adjacent values of a half-precision copy; N is 1 or 4, and 4 of them stand at a multiple of 8 bytes.
template <int N, typename H> __device__ __forceinline__ void store_copy(H* to, const float (&from)[N]) {
  struct alignas(N * sizeof(H)) Group {
    H v[N];
  } group;
#pragma unroll
  for (int k = 0; k < N; k++) group.v[k] = from_float<H>(from[k]);
  *reinterpret_cast<Group*>(to) = group;
}

/// N adjacent elements from i on.
template <int kMoments, int N, typename F>
__device__ __forceinline__ void update_group(const Parameter& of, long long i, float factor, float ema_decay, const F& f) {
  float* const p = pointer<float>(of.weights) + i;
  float* const a = pointer<float>(of.moments[0]) + i;
  float* const b = pointer<float>(of.moments[1]) + i;
  float w[N], g[N], m[N], v[N] = {};
  load<N>(p, w);
  load<N>(pointer<const float>(of.gradient) + i, g);
  load<N>(a, m);
  if (kMoments > 1) load<N>(b, v);
#pragma unroll
  for (int k = 0; k < N; k++) {
    f.update(w[k], factor * g[k], m[k], v[k]);
    if (of.round_format == kHalf) w[k] = to_float(from_float<half16>(w[k]));
    if (of.round_format == kBfloat) w[k] = to_float(from_float<bfloat16>(w[k]));
  }
  store<N>(p, w);
  store<N>(a, m);
  if (kMoments > 1) store<N>(b, v);
  if (of.copy_format == kHalf) store_copy<N>(pointer<half16>(of.copy) + i, w);
  if (of.copy_format == kBfloat) store_copy<N>(pointer<bfloat16>(of.copy) + i, w);
  if (of.ema) {
    float* const average = pointer<float>(of.ema) + i;
    float e[N];
    load<N>(average, e);
#pragma unroll
    for (int k = 0; k < N; k++) e[k] = ema_decay * e[k] + (1.0f - ema_decay) * w[k];
    store<N>(average, e);
  }
}

template <int kMoments, typename F> __device__ void update(const Chunk& chunk, const float* numbers, const F& f) {
  if (numbers[kSkip] != 0) return;
  const Parameter& of = chunk.of;
  const float factor = numbers[kFactor], ema_decay = numbers[kEmaDecay];
  constexpr int N = Pack<float>::N;
  // Chunks begin with a pack wherever the arrays do.
  const unsigned long long all = of.weights | of.gradient | of.moments[0] | of.moments[1] | of.ema | (of.copy << 1);
  const long long split = all % 16 == 0 ? chunk.end - (chunk.end - chunk.first) % N : chunk.first;
  for (long long i = chunk.first + threadIdx.x * N; i < split; i += kThreads * N) {
    update_group<kMoments, N>(of, i, factor, ema_decay, f);
  }
  for (long long i = split + threadIdx.x; i < chunk.end; i += kThreads) {
    update_group<kMoments, 1>(of, i, factor, ema_decay, f);
  }
}

/// The sum over a block in a fixed tree, for thread 0; nothing for the others.
__device__ double block_sum(double value) {
  __shared__ double shared[kThreads];
  shared[threadIdx.x] = value;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  return threadIdx.x == 0 ? shared[0] : 0;
}

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

}  // namespace

/// partial[first + block]: the sum of squares of the block's gradients, unscaled; infinite or NaN where one of them is.
KERNEL gradients_look_f32(Parameters table, const float* numbers, double* partial, int first) {
  const Chunk chunk(table);
  const float* const g = pointer<const float>(chunk.of.gradient);
  const double factor = 1.0 / (double)numbers[kLossScale];
  constexpr int N = Pack<float>::N;
  const long long split = aligned(g) ? chunk.end - (chunk.end - chunk.first) % N : chunk.first;
  double sum = 0;
  for (long long i = chunk.first + threadIdx.x * N; i < split; i += kThreads * N) {
    float v[N];
    load<N>(g + i, v);
#pragma unroll
    for (int k = 0; k < N; k++) sum += (v[k] * factor) * (v[k] * factor);
  }
  for (long long i = split + threadIdx.x; i < chunk.end; i += kThreads) sum += (g[i] * factor) * (g[i] * factor);
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[first + blockIdx.x] = sum;
}

/// One block: what the next update does. The CPU's `decide` does the same.
KERNEL update_decide(const double* partial, int count, float* numbers, long long* updates, Decision d) {
  double total = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) total += partial[i];
  total = block_sum(total);
  if (threadIdx.x != 0) return;
  double factor = 1.0 / (double)numbers[kLossScale];
  bool skip = false;
  if (d.looks) {
    const double norm = sqrt(total);
    numbers[kNorm] = (float)norm;
    if (d.clip_norm > 0) {
      const double clip = (double)d.clip_norm / (norm + 1e-6);
      factor *= clip < 1 ? clip : 1.0;
    }
    if (d.scales) skip = scale_next(d, total, numbers);
  }
  numbers[kFactor] = (float)factor;
  numbers[kSkip] = skip ? 1 : 0;
  if (skip) return;
  *updates += 1;
  if (d.corrects) {
    const double t = (double)*updates;
    numbers[kSize] = (float)((double)numbers[kRate] / (1.0 - pow(d.beta1, t)));
    numbers[kRoot] = (float)sqrt(1.0 - pow(d.beta2, t));
  }
}

KERNEL sgd_f32(Parameters table, const float* numbers, float momentum, int nesterov) {
  const Chunk chunk(table);
  update<1>(chunk, numbers, Sgd{numbers[kRate], momentum, chunk.of.decay, nesterov});
}

KERNEL adamw_f32(Parameters table, const float* numbers, float eps, float beta1, float beta2, float rest1, float rest2) {
  const Chunk chunk(table);
  const float keep = (float)(1.0 - (double)numbers[kRate] * (double)chunk.of.decay);
  update<2>(chunk, numbers, AdamW{numbers[kSize], numbers[kRoot], eps, beta1, beta2, rest1, rest2, keep});
}
