// Softmax cross entropy against class indices, with label smoothing s (Szegedy et al., 2016): a row's loss is
// (1 - s) * (log_sum - x[target]) + s * (log_sum - mean(x)), log_sum being log(sum(e^x)), which the backward pass needs again.
//
// A target outside 0..classes makes its row's loss and gradient NaN: nothing is read out of bounds, and nothing goes unnoticed.
#include "rows.cuh"

namespace {

__device__ float not_a_number() { return __int_as_float(0x7fffffff); }

template <typename T, int V, int W>
__device__ void forward(const T* __restrict__ x, const long long* __restrict__ target, float* __restrict__ losses,
                        float* __restrict__ log_sums, long long rows, int classes, float smoothing) {
  const Team<W> team;
  for (long long row = team.first; row < rows; row += team.step) {
    const T* from = x + row * classes;
    ExpSum total;
    float sum = 0;
    for (int i = team.thread * V; i < classes; i += Team<W>::kSize * V) {
      float v[V];
      load<V>(from + i, v);
      total.add(v);
#pragma unroll
      for (int k = 0; k < V; k++) sum += v[k];
    }
    total.merge(team);
    sum = team.sum(sum);
    if (team.thread == 0) {
      const long long t = target[row];
      const float log_sum = total.log_sum();
      const float nll = t >= 0 && t < classes ? log_sum - to_float(from[t]) : not_a_number();
      // Without smoothing the mean does not count, be it infinite.
      const float uniform = smoothing == 0 ? 0 : smoothing * (log_sum - sum / classes);
      losses[row] = (1 - smoothing) * nll + uniform;
      log_sums[row] = log_sum;
    }
  }
}

/// dx = (softmax(x) - smoothed one-hot) * grad / rows
template <typename T, int V, int W>
__device__ void backward(const T* __restrict__ x, const long long* __restrict__ target, const float* __restrict__ log_sums,
                         const T* __restrict__ grad, T* __restrict__ dx, long long rows, int classes, float smoothing) {
  const Team<W> team;
  const float scale = to_float(*grad) / rows, off = smoothing / classes;
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

#define CROSS_ENTROPY(T, name)                                                                                               \
  KERNEL cross_entropy_fwd_##name(const T* x, const long long* target, float* losses, float* log_sums, long long rows,       \
                                  int classes, float smoothing, int is_long) {                                               \
    const bool packs = in_packs<T>(classes, aligned(x));                                                                     \
    if (packs && is_long) forward<T, Pack<T>::N, kLong>(x, target, losses, log_sums, rows, classes, smoothing);              \
    else if (packs) forward<T, Pack<T>::N, 1>(x, target, losses, log_sums, rows, classes, smoothing);                        \
    else if (is_long) forward<T, 1, kLong>(x, target, losses, log_sums, rows, classes, smoothing);                           \
    else forward<T, 1, 1>(x, target, losses, log_sums, rows, classes, smoothing);                                            \
  }                                                                                                                          \
  KERNEL cross_entropy_mean_##name(const float* losses, long long rows, T* loss) {                                           \
    scaled_sum(losses, rows, 1.0 / rows, loss);                                                                              \
  }                                                                                                                          \
  KERNEL cross_entropy_bwd_##name(const T* x, const long long* target, const float* log_sums, const T* grad, T* dx,          \
                                  long long rows, int classes, float smoothing) {                                            \
    if (in_packs<T>(classes, aligned(x) && aligned(dx)))                                                                     \
      backward<T, Pack<T>::N, 1>(x, target, log_sums, grad, dx, rows, classes, smoothing);                                   \
    else backward<T, 1, 1>(x, target, log_sums, grad, dx, rows, classes, smoothing);                                         \
  }

CROSS_ENTROPY(float, f32)
CROSS_ENTROPY(half16, f16)
CROSS_ENTROPY(bfloat16, bf16)
