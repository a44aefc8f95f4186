// Softmax cross entropy against class indices, with label smoothing s (Szegedy et al., 2016): a row's loss is
// (1 - s) * (log_sum - x[target]) + s * (log_sum - mean(x)), with log_sum = log(sum(e^x)), which is saved for the backward pass.
//
// The forward pass reads each logit once and also counts the logits above the target's; the backward pass reads and writes each once.
//
// A target outside 0..classes makes its row's loss and gradient NaN: nothing is read out of bounds, and the error is visible.
#include "rows.cuh"

namespace {

__device__ float not_a_number() { return __int_as_float(0x7fffffff); }

template <typename T, int V, int W>
__device__ void forward(const T* __restrict__ x, const long long* __restrict__ target, float* __restrict__ losses,
                        float* __restrict__ log_sums, float* __restrict__ ranks, long long rows, int classes, float smoothing) {
  const Team<W> team;
  for (long long row = team.first; row < rows; row += team.step) {
    const T* from = x + row * classes;
    const long long t = target[row];
    const bool exists = t >= 0 && t < classes;
    Rank rank(exists ? to_float(from[t]) : not_a_number(), t);
    ExpSum total;
    float sum = 0;
    for (int i = team.thread * V; i < classes; i += Team<W>::kSize * V) {
      float v[V];
      load<V>(from + i, v);
      total.add(v);
      if (ranks) rank.add(v, i);
#pragma unroll
      for (int k = 0; k < V; k++) sum += v[k];
    }
    total.merge(team);
    sum = team.sum(sum);
    if (ranks) rank.above = team.sum(rank.above);
    if (team.thread == 0) {
      const float log_sum = total.log_sum();
      const float nll = log_sum - rank.value;
      // Without smoothing the mean is ignored, even if it is infinite.
      const float uniform = smoothing == 0 ? 0 : smoothing * (log_sum - sum / classes);
      losses[row] = (1 - smoothing) * nll + uniform;
      log_sums[row] = log_sum;
      if (ranks) ranks[row] = exists ? rank.above : (float)classes;
    }
  }
}

/// loss = mean of the rows' losses. With ranks, counts = [ranks below 1, ranks below k]: correct top-1 and top-k. Runs in one block.
__device__ void mean(const float* __restrict__ losses, const float* __restrict__ ranks, long long rows, int k, float* loss,
                     long long* counts) {
  scaled_sum(losses, rows, 1.0 / rows, loss);
  if (!ranks) return;
  double first = 0, within = 0;
  for (long long i = threadIdx.x; i < rows; i += kThreads) {
    first += ranks[i] < 1;
    within += ranks[i] < k;
  }
  first = block_sum(first);
  within = block_sum(within);
  if (threadIdx.x == 0) {
    counts[0] = (long long)first;
    counts[1] = (long long)within;
  }
}

/// dx = (softmax(x) - smoothed one-hot) * grad / rows
template <typename T, int V, int W>
__device__ void backward(const T* __restrict__ x, const long long* __restrict__ target, const float* __restrict__ log_sums,
                         const float* __restrict__ grad, T* __restrict__ dx, long long rows, int classes, float smoothing) {
  const Team<W> team;
  const float scale = *grad / rows, off = smoothing / classes;
  for (long long row = team.first; row < rows; row += team.step) {
    const long long t = target[row];
    const float log_sum = t >= 0 && t < classes ? log_sums[row] : not_a_number();
    for (int i = team.thread * V; i < classes; i += Team<W>::kSize * V) {
      float v[V];
      load<V>(x + row * classes + i, v);
#pragma unroll
      for (int k = 0; k < V; k++) v[k] = (expf(v[k] - log_sum) - off - (i + k == t ? 1 - smoothing : 0)) * scale;
      store<V>(dx + row * classes + i, v);
    }
  }
}

}  // namespace

#define CROSS_ENTROPY(T, name)                                                                                                \
  KERNEL cross_entropy_fwd_##name(const T* x, const long long* target, float* losses, float* log_sums, float* ranks,          \
                                  long long rows, int classes, float smoothing, int is_long) {                                \
    const bool packs = in_packs<T>(classes, aligned(x));                                                                      \
    if (packs && is_long) forward<T, Pack<T>::N, kLong>(x, target, losses, log_sums, ranks, rows, classes, smoothing);        \
    else if (packs) forward<T, Pack<T>::N, 1>(x, target, losses, log_sums, ranks, rows, classes, smoothing);                  \
    else if (is_long) forward<T, 1, kLong>(x, target, losses, log_sums, ranks, rows, classes, smoothing);                     \
    else forward<T, 1, 1>(x, target, losses, log_sums, ranks, rows, classes, smoothing);                                      \
  }                                                                                                                           \
  KERNEL cross_entropy_bwd_##name(const T* x, const long long* target, const float* log_sums, const float* grad, T* dx,       \
                                  long long rows, int classes, float smoothing) {                                             \
    if (in_packs<T>(classes, aligned(x) && aligned(dx)))                                                                      \
      backward<T, Pack<T>::N, 1>(x, target, log_sums, grad, dx, rows, classes, smoothing);                                    \
    else backward<T, 1, 1>(x, target, log_sums, grad, dx, rows, classes, smoothing);                                          \
  }

KERNEL cross_entropy_mean(const float* losses, const float* ranks, long long rows, int k, float* loss, long long* counts) {
  mean(losses, ranks, rows, k, loss, counts);
}

CROSS_ENTROPY(float, f32)
CROSS_ENTROPY(half16, f16)
CROSS_ENTROPY(bfloat16, bf16)
