// Operations along the middle axis of [outer, n, inner]: top-k, gather, scatter-add, one-hot, cumulative sum, product. A line is a
// 1-d slice of n elements along that axis.
#include "elementwise.cuh"

namespace {

/// Shape of the lines; line index = outer index * inner + inner index.
struct Lines {
  long long count;
  int n, inner;
  /// Offset of the first element of a line, for lines of `length` elements.
  __device__ __forceinline__ long long start(long long line, long long length) const {
    return line / inner * length * inner + line % inner;
  }
};

/// Element of a line; index -1 for none.
struct Candidate {
  float value;
  int index;
};

/// Strict order of a line's elements: by value, NaN first or last, then by index.
struct SortOrder {
  bool smallest, nan_first;

  __device__ __forceinline__ bool before(const Candidate& a, const Candidate& b) const {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan != b_nan) return a_nan == nan_first;
    if (!a_nan && a.value != b.value) return smallest ? a.value < b.value : a.value > b.value;
    return a.index < b.index;
  }

  __device__ __forceinline__ Candidate best(const Candidate& a, const Candidate& b) const {
    if (a.index < 0 || b.index < 0) return a.index < 0 ? b : a;
    return before(b, a) ? b : a;
  }
};

/// First k elements of each line in an order. A block handles `lanes` adjacent lines, each with kThreads / lanes threads. Each of k rounds
/// finds the first element after the last one found, which needs no workspace and suits small k.
template <typename T>
__device__ void top_k(const T* __restrict__ x, T* values, long long* indices, Lines lines, int k, int lanes, SortOrder order) {
  __shared__ Candidate shared[kThreads];
  const int lane = threadIdx.x % lanes, side = kThreads / lanes, row = threadIdx.x / lanes;
  for (long long first = (long long)blockIdx.x * lanes; first < lines.count; first += (long long)gridDim.x * lanes) {
    const long long line = first + lane;
    const T* from = x + lines.start(line, lines.n);
    const long long to = lines.start(line, k);
    Candidate last = {0, -1};
    for (int round = 0; round < k; round++) {
      Candidate best = {0, -1};
      for (int j = row; j < lines.n && line < lines.count; j += side) {
        const Candidate here = {to_float(from[(long long)j * lines.inner]), j};
        if (last.index < 0 || order.before(last, here)) best = order.best(best, here);
      }
      shared[threadIdx.x] = best;
      for (int half = side / 2; half > 0; half /= 2) {
        __syncthreads();
        if (row < half) shared[threadIdx.x] = order.best(shared[threadIdx.x], shared[threadIdx.x + half * lanes]);
      }
      __syncthreads();
      last = shared[lane];
      __syncthreads();
      if (row == 0 && line < lines.count) {
        if (values) values[to + (long long)round * lines.inner] = from_float<T>(last.value);
        if (indices) indices[to + (long long)round * lines.inner] = last.index;
      }
    }
  }
}

/// y[line, j] = x[line, index[line, j]], with k indices a line.
template <typename T>
__device__ void gather(const T* __restrict__ x, const long long* __restrict__ index, T* __restrict__ y, Lines lines, int k) {
  const GridStride loop;
  for (long long i = loop.first; i < lines.count * k; i += loop.step) {
    const long long row = i / lines.inner, column = i - row * lines.inner;
    y[i] = x[(row / k * lines.n + index[i]) * lines.inner + column];
  }
}

/// Transpose of gather: dx[line, index[line, j]] += dy[line, j]. One thread sums a line in the order of j, so that equal indices do not race.
template <typename T>
__device__ void scatter_add(const T* __restrict__ dy, const long long* __restrict__ index, T* __restrict__ dx, Lines lines, int k) {
  const GridStride loop;
  for (long long line = loop.first; line < lines.count; line += loop.step) {
    const long long from = lines.start(line, k), to = lines.start(line, lines.n);
    for (int j = 0; j < lines.n; j++) dx[to + (long long)j * lines.inner] = from_float<T>(0);
    for (int j = 0; j < k; j++) {
      const long long at = from + (long long)j * lines.inner;
      T& sum = dx[to + index[at] * lines.inner];
      sum = from_float<T>(to_float(sum) + to_float(dy[at]));
    }
  }
}

/// y[row, class] = on at class index[row], else off.
template <typename T>
__device__ void one_hot(const long long* __restrict__ index, T* __restrict__ y, long long rows, int classes, float on, float off) {
  const GridStride loop;
  for (long long i = loop.first; i < rows * classes; i += loop.step) {
    const long long row = i / classes;
    y[i] = from_float<T>(i - row * classes == index[row] ? on : off);
  }
}

/// Cumulative sum along each line, from the last element to the first when `reverse`.
template <typename T> __device__ void cumsum(const T* __restrict__ x, T* __restrict__ y, Lines lines, int reverse) {
  const GridStride loop;
  for (long long line = loop.first; line < lines.count; line += loop.step) {
    const long long start = lines.start(line, lines.n);
    double sum = 0;
    for (int j = 0; j < lines.n; j++) {
      const long long at = start + (long long)(reverse ? lines.n - 1 - j : j) * lines.inner;
      sum += to_float(x[at]);
      y[at] = from_float<T>((float)sum);
    }
  }
}

template <typename T> __device__ void prod(const T* __restrict__ x, T* __restrict__ y, Lines lines) {
  const GridStride loop;
  for (long long line = loop.first; line < lines.count; line += loop.step) {
    const long long start = lines.start(line, lines.n);
    double all = 1;
    for (int j = 0; j < lines.n; j++) all *= to_float(x[start + (long long)j * lines.inner]);
    y[line] = from_float<T>((float)all);
  }
}

/// dx[line, j] = dy[line] * product of the line's other elements, without a division, so that zeros are exact. `suffix` receives, for each
/// element, the product of the elements after it.
template <typename T>
__device__ void prod_backward(const T* __restrict__ x, const T* __restrict__ dy, T* __restrict__ dx, double* __restrict__ suffix, Lines lines) {
  const GridStride loop;
  for (long long line = loop.first; line < lines.count; line += loop.step) {
    const long long start = lines.start(line, lines.n);
    double suffix_prod = 1, before = to_float(dy[line]);
    for (int j = lines.n - 1; j >= 0; j--) {
      const long long at = start + (long long)j * lines.inner;
      suffix[at] = suffix_prod;
      suffix_prod *= to_float(x[at]);
    }
    for (int j = 0; j < lines.n; j++) {
      const long long at = start + (long long)j * lines.inner;
      dx[at] = from_float<T>((float)(before * suffix[at]));
      before *= to_float(x[at]);
    }
  }
}

}  // namespace

#define LINES(T, name)                                                                                                 \
  KERNEL top_k_##name(const T* x, T* values, long long* indices, long long count, int n, int inner, int k, int lanes,  \
                       int smallest, int nan_first) {                                                                  \
    top_k<T>(x, values, indices, {count, n, inner}, k, lanes, {smallest != 0, nan_first != 0});                        \
  }                                                                                                                    \
  KERNEL gather_fwd_##name(const T* x, const long long* index, T* y, long long count, int n, int inner, int k) {       \
    gather<T>(x, index, y, {count, n, inner}, k);                                                                      \
  }                                                                                                                    \
  KERNEL gather_bwd_##name(const T* dy, const long long* index, T* dx, long long count, int n, int inner, int k) {     \
    scatter_add<T>(dy, index, dx, {count, n, inner}, k);                                                               \
  }                                                                                                                    \
  KERNEL one_hot_##name(const long long* index, T* y, long long rows, int classes, float on, float off) {              \
    one_hot<T>(index, y, rows, classes, on, off);                                                                      \
  }                                                                                                                    \
  KERNEL cumsum_##name(const T* x, T* y, long long count, int n, int inner, int reverse) {                             \
    cumsum<T>(x, y, {count, n, inner}, reverse);                                                                       \
  }                                                                                                                    \
  KERNEL prod_fwd_##name(const T* x, T* y, long long count, int n, int inner) { prod<T>(x, y, {count, n, inner}); }    \
  KERNEL prod_bwd_##name(const T* x, const T* dy, T* dx, double* suffix, long long count, int n, int inner) {          \
    prod_backward<T>(x, dy, dx, suffix, {count, n, inner});                                                            \
  }

LINES(float, f32)
LINES(half16, f16)
LINES(bfloat16, bf16)
