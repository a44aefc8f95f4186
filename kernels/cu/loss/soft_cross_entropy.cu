// Soft-target cross entropy, -sum(t * log softmax(x)) per row, and binary cross entropy with logits,
// (1 - t) x + (1 + (pos_weight - 1) t) * softplus(-x) per element.
#include "rows.cuh"

namespace {

/// Loss per row: sum(t) * log_sum - sum(t * x), with x relative to the row's first element so that a common offset costs no precision.
/// `saved` receives log_sum of all rows, then sum(t) of all rows. `ranks`, unless it is null, receives the rank of the target's largest
/// class, which takes a second pass over x.
template <typename T, int V, int W>
__device__ void soft_forward(const T* __restrict__ x, const T* __restrict__ target, float* __restrict__ losses,
                             float* __restrict__ saved, float* __restrict__ ranks, long long rows, int classes) {
  const Team<W> team;
  for (long long row = team.first; row < rows; row += team.step) {
    const T* from = x + row * classes;
    const float first = to_float(*from), offset = isfinite(first) ? first : 0;
    ExpSum total;
    float target_sum = 0, dot = 0, largest = __int_as_float(0xff800000), argmax = (float)classes;
    for (int i = team.thread * V; i < classes; i += Team<W>::kSize * V) {
      float v[V], t[V];
      load<V>(from + i, v);
      load<V>(target + row * classes + i, t);
      total.add(v);
#pragma unroll
      for (int k = 0; k < V; k++) {
        target_sum += t[k];
        dot += t[k] * (v[k] - offset);
        if (t[k] > largest) {
          largest = t[k];
          argmax = (float)(i + k);
        }
      }
    }
    total.merge(team);
    target_sum = team.sum(target_sum);
    dot = team.sum(dot);
    const float log_sum = total.log_sum();
    if (team.thread == 0) {
      losses[row] = target_sum * (log_sum - offset) - dot;
      saved[row] = log_sum;
      saved[rows + row] = target_sum;
    }
    if (ranks) {
      const float top = team.max(largest);
      const int best = (int)-team.max(largest == top ? -argmax : -(float)classes);
      Rank rank(best < classes ? to_float(from[best]) : __int_as_float(0xff800000), best);
      for (int i = team.thread * V; i < classes; i += Team<W>::kSize * V) {
        float v[V];
        load<V>(from + i, v);
        rank.add(v, i);
      }
      rank.above = team.sum(rank.above);
      if (team.thread == 0) ranks[row] = rank.above;
    }
  }
}

/// dx = (softmax(x) * sum(t) - t) * grad / rows
template <typename T, int V>
__device__ void soft_backward(const T* __restrict__ x, const T* __restrict__ target, const float* __restrict__ saved,
                              const float* __restrict__ grad, T* __restrict__ dx, long long rows, int classes) {
  const Team<1> team;
  const float scale = *grad / rows;
  for (long long row = team.first; row < rows; row += team.step) {
    const float log_sum = saved[row], target_sum = saved[rows + row];
    for (int i = team.thread * V; i < classes; i += Team<1>::kSize * V) {
      float v[V], t[V];
      load<V>(x + row * classes + i, v);
      load<V>(target + row * classes + i, t);
#pragma unroll
      for (int k = 0; k < V; k++) v[k] = (expf(v[k] - log_sum) * target_sum - t[k]) * scale;
      store<V>(dx + row * classes + i, v);
    }
  }
}

/// partial[block]: sum of the losses of a block's elements; `extra` is pos_weight - 1.
template <typename T, int V>
__device__ void binary_forward(const T* __restrict__ x, const T* __restrict__ target, float* __restrict__ partial, long long len, float extra) {
  float sum = 0;
  for (long long i = ((long long)blockIdx.x * kThreads + threadIdx.x) * V; i < len; i += (long long)gridDim.x * kThreads * V) {
    float v[V], t[V];
    load<V>(x + i, v);
    load<V>(target + i, t);
#pragma unroll
    for (int k = 0; k < V; k++) {
      // softplus(-x), in the form that does not overflow.
      const float softplus = log1pf(expf(-fabsf(v[k]))) + (v[k] < 0 ? -v[k] : 0);
      sum += (1 - t[k]) * v[k] + (1 + extra * t[k]) * softplus;
    }
  }
  sum = Team<kLong>().sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/// dx = ((1 - t) - (1 + (pos_weight - 1) t) * sigmoid(-x)) * grad * factor
template <typename T, int V>
__device__ void binary_backward(const T* __restrict__ x, const T* __restrict__ target, const T* __restrict__ grad,
                                T* __restrict__ dx, long long len, float extra, float factor) {
  const float scale = to_float(*grad) * factor;
  for (long long i = ((long long)blockIdx.x * kThreads + threadIdx.x) * V; i < len; i += (long long)gridDim.x * kThreads * V) {
    float v[V], t[V];
    load<V>(x + i, v);
    load<V>(target + i, t);
#pragma unroll
    for (int k = 0; k < V; k++) v[k] = ((1 - t[k]) - (1 + extra * t[k]) / (1 + expf(v[k]))) * scale;
    store<V>(dx + i, v);
  }
}

/// True when `len` elements can be read in packs; `aligned` says whether the tensors are.
template <typename T> __device__ bool in_packs_of(long long len, bool aligned) { return aligned && len % Pack<T>::N == 0; }

}  // namespace

#define SOFT_CROSS_ENTROPY(T, name)                                                                                             \
  KERNEL soft_cross_entropy_fwd_##name(const T* x, const T* target, float* losses, float* saved, float* ranks, long long rows,  \
                                       int classes, int is_long) {                                                              \
    const bool packs = in_packs<T>(classes, aligned(x) && aligned(target));                                                     \
    if (packs && is_long) soft_forward<T, Pack<T>::N, kLong>(x, target, losses, saved, ranks, rows, classes);                   \
    else if (packs) soft_forward<T, Pack<T>::N, 1>(x, target, losses, saved, ranks, rows, classes);                             \
    else if (is_long) soft_forward<T, 1, kLong>(x, target, losses, saved, ranks, rows, classes);                                \
    else soft_forward<T, 1, 1>(x, target, losses, saved, ranks, rows, classes);                                                 \
  }                                                                                                                             \
  KERNEL soft_cross_entropy_bwd_##name(const T* x, const T* target, const float* saved, const float* grad, T* dx,               \
                                       long long rows, int classes) {                                                           \
    if (in_packs<T>(classes, aligned(x) && aligned(target) && aligned(dx)))                                                     \
      soft_backward<T, Pack<T>::N>(x, target, saved, grad, dx, rows, classes);                                                  \
    else soft_backward<T, 1>(x, target, saved, grad, dx, rows, classes);                                                        \
  }                                                                                                                             \
  KERNEL binary_cross_entropy_fwd_##name(const T* x, const T* target, float* partial, long long len, float extra) {             \
    if (in_packs_of<T>(len, aligned(x) && aligned(target))) binary_forward<T, Pack<T>::N>(x, target, partial, len, extra);      \
    else binary_forward<T, 1>(x, target, partial, len, extra);                                                                  \
  }                                                                                                                             \
  KERNEL binary_cross_entropy_bwd_##name(const T* x, const T* target, const T* grad, T* dx, long long len, float extra,         \
                                         float factor) {                                                                        \
    if (in_packs_of<T>(len, aligned(x) && aligned(target) && aligned(dx)))                                                      \
      binary_backward<T, Pack<T>::N>(x, target, grad, dx, len, extra, factor);                                                  \
    else binary_backward<T, 1>(x, target, grad, dx, len, extra, factor);                                                        \
  }                                                                                                                             \
  KERNEL soft_cross_entropy_total_##name(const float* partial, long long count, long long divisor, T* loss) {                   \
    scaled_sum(partial, count, 1.0 / divisor, loss);                                                                            \
  }

SOFT_CROSS_ENTROPY(float, f32)
SOFT_CROSS_ENTROPY(half16, f16)
SOFT_CROSS_ENTROPY(bfloat16, bf16)
