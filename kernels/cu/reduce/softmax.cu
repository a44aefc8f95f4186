// Softmax and log-softmax along rows of n elements, by a warp per row or, for long rows, a block. One pass computes the maximum and the
// sum of exponentials (online softmax; Milakov and Gimelshein, 2018), a second one writes.
#include "rows.cuh"

namespace {

template <typename T, int V, int W>
__device__ void forward(const T* __restrict__ x, T* __restrict__ y, long long rows, int n, int log) {
  const Team<W> team;
  for (long long row = team.first; row < rows; row += team.step) {
    const T* from = x + row * n;
    ExpSum total;
    for (int i = team.thread * V; i < n; i += Team<W>::kSize * V) {
      float v[V];
      load<V>(from + i, v);
      total.add(v);
    }
    total.merge(team);
    const float off = log ? total.log_sum() : ExpSum::shift(total.max), scale = 1.0f / total.sum;
    for (int i = team.thread * V; i < n; i += Team<W>::kSize * V) {
      float v[V];
      load<V>(from + i, v);
#pragma unroll
      for (int k = 0; k < V; k++) v[k] = log ? v[k] - off : expf(v[k] - off) * scale;
      store<V>(y + row * n + i, v);
    }
  }
}

/// dx = y (dy - sum(dy y)), or for the logarithm dx = dy - e^y sum(dy).
template <typename T, int V, int W>
__device__ void backward(const T* __restrict__ y, const T* __restrict__ dy, T* __restrict__ dx, long long rows, int n, int log) {
  const Team<W> team;
  for (long long row = team.first; row < rows; row += team.step) {
    float sum = 0;
    for (int i = team.thread * V; i < n; i += Team<W>::kSize * V) {
      float v[V], g[V];
      load<V>(y + row * n + i, v);
      load<V>(dy + row * n + i, g);
#pragma unroll
      for (int k = 0; k < V; k++) sum += log ? g[k] : g[k] * v[k];
    }
    sum = team.sum(sum);
    for (int i = team.thread * V; i < n; i += Team<W>::kSize * V) {
      float v[V], g[V];
      load<V>(y + row * n + i, v);
      load<V>(dy + row * n + i, g);
#pragma unroll
      for (int k = 0; k < V; k++) g[k] = log ? g[k] - expf(v[k]) * sum : v[k] * (g[k] - sum);
      store<V>(dx + row * n + i, g);
    }
  }
}

}  // namespace

#define SOFTMAX(T, name)                                                                                             \
  KERNEL softmax_fwd_##name(const T* x, T* y, long long rows, int n, int log, int is_long) {                         \
    const bool packs = in_packs<T>(n, aligned(x) && aligned(y));                                                     \
    if (packs && is_long) forward<T, Pack<T>::N, kLong>(x, y, rows, n, log);                                         \
    else if (packs) forward<T, Pack<T>::N, 1>(x, y, rows, n, log);                                                   \
    else if (is_long) forward<T, 1, kLong>(x, y, rows, n, log);                                                      \
    else forward<T, 1, 1>(x, y, rows, n, log);                                                                       \
  }                                                                                                                  \
  KERNEL softmax_bwd_##name(const T* y, const T* dy, T* dx, long long rows, int n, int log, int is_long) {           \
    const bool packs = in_packs<T>(n, aligned(y) && aligned(dy) && aligned(dx));                                     \
    if (packs && is_long) backward<T, Pack<T>::N, kLong>(y, dy, dx, rows, n, log);                                   \
    else if (packs) backward<T, Pack<T>::N, 1>(y, dy, dx, rows, n, log);                                             \
    else if (is_long) backward<T, 1, kLong>(y, dy, dx, rows, n, log);                                                \
    else backward<T, 1, 1>(y, dy, dx, rows, n, log);                                                                 \
  }

SOFTMAX(float, f32)
SOFTMAX(half16, f16)
SOFTMAX(bfloat16, bf16)
