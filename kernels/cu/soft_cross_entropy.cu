// Cross entropies against distributions: soft targets, -sum(t * log softmax(x)) a row, and independent labels,
// (1 - t) x + (1 + (pos_weight - 1) t) * softplus(-x) an element.
#include "rows.cuh"

namespace {

template <typename T, int V, int W>
__device__ void soft_forward(const T* __restrict__ x, const T* __restrict__ target, float* __restrict__ losses,
                             float* __restrict__ log_sums, long long rows, int classes) {
  const Team<W> team;
  for (long long row = team.first; row < rows; row += team.step) {
    ExpSum total;
    for (int i = team.thread * V; i < classes; i += Team<W>::kSize * V) {
      float v[V];
      load<V>(x + row * classes + i, v);
      total.add(v);
    }
    total.merge(team);
    const float log_sum = total.log_sum();
    float loss = 0;
    for (int i = team.thread * V; i < classes; i += Team<W>::kSize * V) {
      float v[V], t[V];
      load<V>(x + row * classes + i, v);
      load<V>(target + row * classes + i, t);
#pragma unroll
      for (int k = 0; k < V; k++) loss += t[k] * (log_sum - v[k]);
    }
    loss = team.sum(loss);
    if (team.thread == 0) {
      losses[row] = loss;
      log_sums[row] = log_sum;
    }
  }
}

/// dx = (softmax(x) * sum(t) - t) * grad / rows
template <typename T, int V, int W>
__device__ void soft_backward(const T* __restrict__ x, const T* __restrict__ target, const float* __restrict__ log_sums,
                              const T* __restrict__ grad, T* __restrict__ dx, long long rows, int classes) {
  const Team<W> team;
  const float scale = to_float(*grad) / rows;
  for (long long row = team.first; row < rows; row += team.step) {
    float mass = 0;
    for (int i = team.thread * V; i < classes; i += Team<W>::kSize * V) {
      float t[V];
      load<V>(target + row * classes + i, t);
#pragma unroll
      for (int k = 0; k < V; k++) mass += t[k];
    }
    mass = team.sum(mass);
    const float log_sum = log_sums[row];
    for (int i = team.thread * V; i < classes; i += Team<W>::kSize * V) {
      float v[V], t[V];
      load<V>(x + row * classes + i, v);
      load<V>(target + row * classes + i, t);
#pragma unroll
      for (int k = 0; k < V; k++) v[k] = (expf(v[k] - log_sum) * mass - t[k]) * scale;
      store<V>(dx + row * classes + i, v);
    }
  }
}

/// partial[block]: the sum of the losses of the elements that fall to a block; `extra` is pos_weight - 1.
template <typename T, int V>
__device__ void binary_forward(const T* __restrict__ x, const T* __restrict__ target, float* __restrict__ partial, long long len, float extra) {
  float sum = 0;
  for (long long i = ((long long)blockIdx.x * kThreads + threadIdx.x) * V; i < len; i += (long long)gridDim.x * kThreads * V) {
    float v[V], t[V];
    load<V>(x + i, v);
    load<V>(target + i, t);
#pragma unroll
    for (int k = 0; k < V; k++) {
      // softplus(-x), from the side on which the exponential does not overflow.
      const float softplus = log1pf(expf(-fabsf(v[k]))) + (v[k] < 0 ? -v[k] : 0);
      sum += (1 - t[k]) * v[k] + (1 + extra * t[k]) * softplus;
    }
  }
  sum = Team<kLong>().sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/// dx = ((1 - t) - (1 + (pos_weight - 1) t) * sigmoid(-x)) * grad * share
template <typename T, int V>
__device__ void binary_backward(const T* __restrict__ x, const T* __restrict__ target, const T* __restrict__ grad,
                                T* __restrict__ dx, long long len, float extra, float share) {
  const float scale = to_float(*grad) * share;
  for (long long i = ((long long)blockIdx.x * kThreads + threadIdx.x) * V; i < len; i += (long long)gridDim.x * kThreads * V) {
    float v[V], t[V];
    load<V>(x + i, v);
    load<V>(target + i, t);
#pragma unroll
    for (int k = 0; k < V; k++) v[k] = ((1 - t[k]) - (1 + extra * t[k]) / (1 + expf(v[k]))) * scale;
    store<V>(dx + i, v);
  }
}

/// True where `len` elements can be read in packs, given that the tensors are `aligned`.
template <typename T> __device__ bool in_packs_of(long long len, bool aligned) { return aligned && len % Pack<T>::N == 0; }

}  // namespace

#define SOFT_CROSS_ENTROPY(T, name)                                                                                           \
  KERNEL soft_cross_entropy_fwd_##name(const T* x, const T* target, float* losses, float* log_sums, long long rows,           \
                                       int classes, int is_long) {                                                            \
    const bool packs = in_packs<T>(classes, aligned(x) && aligned(target));                                                   \
    if (packs && is_long) soft_forward<T, Pack<T>::N, kLong>(x, target, losses, log_sums, rows, classes);                     \
    else if (packs) soft_forward<T, Pack<T>::N, 1>(x, target, losses, log_sums, rows, classes);                               \
    else if (is_long) soft_forward<T, 1, kLong>(x, target, losses, log_sums, rows, classes);                                  \
    else soft_forward<T, 1, 1>(x, target, losses, log_sums, rows, classes);                                                   \
  }                                                                                                                           \
  KERNEL soft_cross_entropy_bwd_##name(const T* x, const T* target, const float* log_sums, const T* grad, T* dx,              \
                                       long long rows, int classes, int is_long) {                                            \
    const bool packs = in_packs<T>(classes, aligned(x) && aligned(target) && aligned(dx));                                    \
    if (packs && is_long) soft_backward<T, Pack<T>::N, kLong>(x, target, log_sums, grad, dx, rows, classes);                  \
    else if (packs) soft_backward<T, Pack<T>::N, 1>(x, target, log_sums, grad, dx, rows, classes);                            \
    else if (is_long) soft_backward<T, 1, kLong>(x, target, log_sums, grad, dx, rows, classes);                               \
    else soft_backward<T, 1, 1>(x, target, log_sums, grad, dx, rows, classes);                                                \
  }                                                                                                                           \
  KERNEL binary_cross_entropy_fwd_##name(const T* x, const T* target, float* partial, long long len, float extra) {           \
    if (in_packs_of<T>(len, aligned(x) && aligned(target))) binary_forward<T, Pack<T>::N>(x, target, partial, len, extra);    \
    else binary_forward<T, 1>(x, target, partial, len, extra);                                                                \
  }                                                                                                                           \
  KERNEL binary_cross_entropy_bwd_##name(const T* x, const T* target, const T* grad, T* dx, long long len, float extra,       \
                                         float share) {                                                                       \
    if (in_packs_of<T>(len, aligned(x) && aligned(target) && aligned(dx)))                                                    \
      binary_backward<T, Pack<T>::N>(x, target, grad, dx, len, extra, share);                                                 \
    else binary_backward<T, 1>(x, target, grad, dx, len, extra, share);                                                       \
  }                                                                                                                           \
  KERNEL soft_cross_entropy_total_##name(const float* partial, long long count, long long divisor, T* loss) {                 \
    scaled_sum(partial, count, 1.0 / divisor, loss);                                                                          \
  }

SOFT_CROSS_ENTROPY(float, f32)
SOFT_CROSS_ENTROPY(half16, f16)
SOFT_CROSS_ENTROPY(bfloat16, bf16)
