// Batch normalization, activation and max pooling as one operation, as in the stem of ResNet (He et al., 2016): y = max_pool(f(bn(x))).
//
// Forward: one pass reads x and writes the maxima and their taps; the normalized tensor is not materialized. Backward: as in batch_norm.cu,
// one pass computes the sums of d and of d * (x - mean), and one dx = scale * d + k2 * x + k3, with d = g * f'. Both gather g, the
// gradient of a pixel, from the windows that it is the maximum of, where the composition would write and read it twice. Values that the
// composition stores are rounded as there, so the bits are the same.
#include "batch_norm_activation.cuh"
#include "batch_norm_sums.cuh"
#include "pool.cuh"

namespace {

/// Rounds to T and back.
template <typename T, int V> __device__ __forceinline__ void round_to(float (&v)[V]) {
#pragma unroll
  for (int k = 0; k < V; k++) v[k] = to_float(from_float<T>(v[k]));
}

/// `rows` are those of y.
template <typename T, int V>
__device__ void forward(const T* __restrict__ x, const float* __restrict__ saved, T* __restrict__ y, unsigned char* __restrict__ index,
                        long long rows, const Pool& p, int f) {
  FOR_PIXELS(V, rows, p.out[1], p.c) {
    float scale[V], shift[V];
    const int j = i % packs * V;
    load_floats(saved + 2 * p.c + j, scale);
    load_floats(saved + 3 * p.c + j, shift);
    window_maximum<T, V>(x, y, index, p, row, i, [&](float (&v)[V]) {
#pragma unroll
      for (int k = 0; k < V; k++) v[k] = fmaf(v[k], scale[k], shift[k]);
      activate(f, v);
      round_to<T>(v);
    });
  }
}

/// Elements of x in a pixel, and d of them.
template <int V> struct Pixel {
  float x[V], d[V];
};

/// V channels from `at` on of pixel number `pixel` of all images.
template <typename T, int V>
__device__ __forceinline__ Pixel<V> load_pixel(const T* x, const T* dy, const unsigned char* index, const Pool& p, long long pixel, int at,
                                               const float (&scale)[V], const float (&shift)[V], int f) {
  Pixel<V> of;
  const float no_residual[V] = {};
  const long long row = pixel / p.size[1];
  load<V>(x + pixel * p.c + at, of.x);
  gather_maxima<T, V>(dy, index, p, row, (int)(pixel - row * p.size[1]), at, of.d);
  round_to<T>(of.d);
  if (f != kIdentity) multiply_by_derivative(f, of.x, scale, shift, no_residual, of.d);
  return of;
}

template <typename T, int V>
__device__ void sums(const T* x, const T* dy, const unsigned char* index, const float* saved, const SumsMerge& m, long long rows,
                     int chunk_rows, const Pool& p, int f) {
  const int c = p.c;
  const Tile<V> tile(c);
  const long long first = (long long)blockIdx.y * chunk_rows;
  const int n = (int)min((long long)chunk_rows, rows - first);
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const int at = tile.channel(t);
    float totals[2 * V] = {};
    if (at < c) {
      float mean[V], scale[V], shift[V];
      load_floats(saved + at, mean);
      load_floats(saved + 2 * c + at, scale);
      load_floats(saved + 3 * c + at, shift);
      for (int row = tile.row; row < n; row += tile.rows) {
        const Pixel<V> of = load_pixel<T, V>(x, dy, index, p, first + row, at, scale, shift, f);
#pragma unroll
        for (int k = 0; k < V; k++) {
          totals[k] += of.d[k];
          totals[V + k] = fmaf(of.d[k], of.x[k] - mean[k], totals[V + k]);
        }
      }
    }
    sum_over_rows(totals, tile.lanes);
    if (at < c && tile.row == 0) store_sums(m, c, at, totals);
  }
  finish_sums(tile, m, saved, rows, c);
}

template <typename T, int V>
__device__ void input_gradient(const T* __restrict__ x, const T* __restrict__ dy, const unsigned char* __restrict__ index,
                               const float* __restrict__ saved, const float* __restrict__ factors, T* __restrict__ dx, long long rows,
                               int chunk_rows, const Pool& p, int f) {
  const int c = p.c;
  const Tile<V> tile(c);
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const int at = tile.channel(t);
    if (at >= c) continue;
    float scale[V], shift[V], k2[V], k3[V];
    load_floats(saved + 2 * c + at, scale);
    load_floats(saved + 3 * c + at, shift);
    load_floats(factors + at, k2);
    load_floats(factors + c + at, k3);
    for_rows_backwards<1>(
        tile, rows, chunk_rows, [&](long long row) { return load_pixel<T, V>(x, dy, index, p, row, at, scale, shift, f); },
        [&](long long row, const Pixel<V>& of) {
          float g[V];
#pragma unroll
          for (int k = 0; k < V; k++) g[k] = fmaf(scale[k], of.d[k], fmaf(k2[k], of.x[k], k3[k]));
          store<V>(dx + row * c + at, g);
        });
  }
}

}  // namespace

#define BY_ELEMENT(T, name)                                                                                                             \
  KERNEL batch_norm_pool_fwd_##name(const T* x, const float* saved, T* y, unsigned char* index, long long rows, Pool p, int f) {        \
    if (in_packs<T>(p.c, aligned(x) && aligned(y) && aligned(index))) forward<T, Pack<T>::N>(x, saved, y, index, rows, p, f);           \
    else forward<T, 1>(x, saved, y, index, rows, p, f);                                                                                 \
  }                                                                                                                                     \
  KERNEL batch_norm_pool_sums_bwd_##name(const T* x, const T* dy, const unsigned char* index, const float* saved, SumsMerge merge,      \
                                         long long rows, int chunk_rows, Pool p, int f) {                                               \
    if (in_packs<T>(p.c, aligned(x) && aligned(dy) && aligned(index)))                                                                  \
      sums<T, Pack<T>::N>(x, dy, index, saved, merge, rows, chunk_rows, p, f);                                                          \
    else sums<T, 1>(x, dy, index, saved, merge, rows, chunk_rows, p, f);                                                                \
  }                                                                                                                                     \
  KERNEL batch_norm_pool_bwd_##name(const T* x, const T* dy, const unsigned char* index, const float* saved, const float* factors,      \
                                    T* dx, long long rows, int chunk_rows, Pool p, int f) {                                             \
    if (in_packs<T>(p.c, aligned(x) && aligned(dy) && aligned(dx) && aligned(index)))                                                   \
      input_gradient<T, Pack<T>::N>(x, dy, index, saved, factors, dx, rows, chunk_rows, p, f);                                          \
    else input_gradient<T, 1>(x, dy, index, saved, factors, dx, rows, chunk_rows, p, f);                                                \
  }

BY_ELEMENT(float, f32)
BY_ELEMENT(half16, f16)
BY_ELEMENT(bfloat16, bf16)
