// ReLU of the sum of two batch normalizations: y = max(bn(x[0]) + bn(x[1]), 0), as at the end of a residual block whose shortcut has a
// convolution (He et al., 2016). Neither normalized tensor is materialized.
//
// Forward: one pass reads both x and writes y and the mask, one bit per element. Backward: one pass reads both x, dy and the mask and
// computes the sums of both normalizations; one pass reads these again and writes both dx. As in batch_norm.cu, d = dy where the mask's
// bit is set, else 0, and dx = scale * d + k2 * x + k3.
#include "batch_norm_sums.cuh"

namespace {

template <typename T> struct Operands {
  const T* x[2];
  /// Saved statistics of each normalization, [4, c].
  const float* saved[2];
};

template <typename T, bool kPacked>
__device__ void apply(const Operands<T>& in, T* __restrict__ y, unsigned char* __restrict__ mask, long long rows, int c, int chunk_rows) {
  struct Loaded {
    Stored<T, kBits> x[2];
  };
  const Tile<kBits> tile(c);
  const long long bytes = (c + kBits - 1) / kBits;
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const int at = tile.channel(t), n = c - at;
    if (n <= 0) continue;
    float scale[2][kBits], shift[2][kBits];
#pragma unroll
    for (int p = 0; p < 2; p++) {
      load_eight<kPacked>(in.saved[p] + 2 * c + at, n, scale[p]);
      load_eight<kPacked>(in.saved[p] + 3 * c + at, n, shift[p]);
    }
    for_rows_backwards<2>(
        tile, rows, chunk_rows,
        [&](long long row) {
          const long long i = row * c + at;
          return Loaded{{load_eight<kPacked>(in.x[0] + i, n), load_eight<kPacked>(in.x[1] + i, n)}};
        },
        [&](long long row, const Loaded& of) {
          float v[kBits], w[kBits];
          of.x[0].widen(v);
          of.x[1].widen(w);
          unsigned bits = 0;
#pragma unroll
          for (int k = 0; k < kBits; k++) {
            v[k] = fmaf(v[k], scale[0][k], shift[0][k]) + fmaf(w[k], scale[1][k], shift[1][k]);
            bits |= (unsigned)(v[k] > 0) << k;
            // A comparison that lets NaN propagate.
            v[k] = v[k] < 0 ? 0 : v[k];
          }
          mask[row * bytes + at / kBits] = (unsigned char)bits;
          store_eight<kPacked>(y + row * c + at, n, v);
        });
  }
}

template <typename T, bool kPacked>
__device__ void sums(const Operands<T>& in, const T* __restrict__ dy, const unsigned char* __restrict__ mask, const SumsMerge (&merge)[2],
                     long long rows, int c, int chunk_rows) {
  struct Loaded {
    Stored<T, kBits> x[2];
    MaskedGradient<T> d;
  };
  const Tile<kBits> tile(c);
  const long long first = (long long)blockIdx.y * chunk_rows, bytes = (c + kBits - 1) / kBits;
  const int count = (int)min((long long)chunk_rows, rows - first);
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const int at = tile.channel(t), n = c - at;
    // Sums of d, d * (x[0] - mean[0]) and d * (x[1] - mean[1]).
    float totals[3 * kBits] = {};
    if (n > 0) {
      float mean[2][kBits];
      load_eight<kPacked>(in.saved[0] + at, n, mean[0]);
      load_eight<kPacked>(in.saved[1] + at, n, mean[1]);
      for_rows<2>(
          tile.row, count, tile.rows,
          [&](int row) {
            const long long i = (first + row) * c + at;
            const unsigned char* bits = mask + (first + row) * bytes + at / kBits;
            return Loaded{{load_eight<kPacked>(in.x[0] + i, n), load_eight<kPacked>(in.x[1] + i, n)},
                          MaskedGradient<T>::template load<kPacked>(dy + i, bits, n)};
          },
          [&](int, const Loaded& of) {
            float v[kBits], w[kBits], g[kBits];
            of.x[0].widen(v);
            of.x[1].widen(w);
            of.d.widen(g);
#pragma unroll
            for (int k = 0; k < kBits; k++) {
              totals[k] += g[k];
              totals[kBits + k] = fmaf(g[k], v[k] - mean[0][k], totals[kBits + k]);
              totals[2 * kBits + k] = fmaf(g[k], w[k] - mean[1][k], totals[2 * kBits + k]);
            }
          });
    }
    sum_over_rows(totals, tile.lanes);
    if (tile.row == 0) {
#pragma unroll
      for (int p = 0; p < 2; p++) store_partial(merge[p], c, at, n, totals, totals + (1 + p) * kBits);
    }
  }
  finish_sums(tile, merge[0], in.saved[0], rows, c);
  finish_sums(tile, merge[1], in.saved[1], rows, c);
}

/// `factors` are k2 and k3 of each normalization, [2, c]; a null dx is not wanted. dx[0] may alias dy.
template <typename T, bool kPacked>
__device__ void input_gradients(const Operands<T>& in, const T* dy, const unsigned char* __restrict__ mask, const float* const (&factors)[2],
                                T* const (&dx)[2], long long rows, int c, int chunk_rows) {
  struct Loaded {
    Stored<T, kBits> x[2];
    MaskedGradient<T> d;
  };
  const Tile<kBits> tile(c);
  const long long bytes = (c + kBits - 1) / kBits;
  for (int t = blockIdx.x; t < tile.count; t += gridDim.x) {
    const int at = tile.channel(t), n = c - at;
    if (n <= 0) continue;
    float scale[2][kBits], k2[2][kBits], k3[2][kBits];
#pragma unroll
    for (int p = 0; p < 2; p++) {
      load_eight<kPacked>(in.saved[p] + 2 * c + at, n, scale[p]);
      load_eight<kPacked>(factors[p] + at, n, k2[p]);
      load_eight<kPacked>(factors[p] + c + at, n, k3[p]);
    }
    for_rows_backwards<1>(
        tile, rows, chunk_rows,
        [&](long long row) {
          const long long i = row * c + at;
          Loaded of;
          of.d = MaskedGradient<T>::template load<kPacked>(dy + i, mask + row * bytes + at / kBits, n);
#pragma unroll
          for (int p = 0; p < 2; p++) {
            if (dx[p]) of.x[p] = load_eight<kPacked>(in.x[p] + i, n);
          }
          return of;
        },
        [&](long long row, const Loaded& of) {
          float g[kBits], v[kBits];
          of.d.widen(g);
#pragma unroll
          for (int p = 0; p < 2; p++) {
            if (!dx[p]) continue;
            of.x[p].widen(v);
#pragma unroll
            for (int k = 0; k < kBits; k++) v[k] = fmaf(scale[p][k], g[k], fmaf(k2[p][k], v[k], k3[p][k]));
            store_eight<kPacked>(dx[p] + row * c + at, n, v);
          }
        });
  }
}

/// True if rows of `c` elements can be read by eight, given whether the tensors are aligned.
template <typename T> __device__ __forceinline__ bool by_eight(const Operands<T>& in, int c, bool rest) {
  return c % kBits == 0 && aligned(in.x[0]) && aligned(in.x[1]) && rest;
}

}  // namespace

#define BY_ELEMENT(T, name)                                                                                                        \
  KERNEL batch_norm_pair_fwd_##name(const T* x0, const T* x1, const float* saved0, const float* saved1, T* y, unsigned char* mask, \
                                 long long rows, int c, int chunk_rows) {                                                          \
    const Operands<T> in = {{x0, x1}, {saved0, saved1}};                                                                           \
    if (by_eight(in, c, aligned(y))) apply<T, true>(in, y, mask, rows, c, chunk_rows);                                             \
    else apply<T, false>(in, y, mask, rows, c, chunk_rows);                                                                        \
  }                                                                                                                                \
  KERNEL batch_norm_pair_sums_bwd_##name(const T* x0, const T* x1, const float* saved0, const float* saved1, const T* dy,          \
                                      const unsigned char* mask, SumsMerge merge0, SumsMerge merge1, long long rows, int c,        \
                                      int chunk_rows) {                                                                            \
    const Operands<T> in = {{x0, x1}, {saved0, saved1}};                                                                           \
    const SumsMerge merge[2] = {merge0, merge1};                                                                                   \
    if (by_eight(in, c, aligned(dy))) sums<T, true>(in, dy, mask, merge, rows, c, chunk_rows);                                     \
    else sums<T, false>(in, dy, mask, merge, rows, c, chunk_rows);                                                                 \
  }                                                                                                                                \
  KERNEL batch_norm_pair_bwd_##name(const T* x0, const T* x1, const float* saved0, const float* saved1, const T* dy,               \
                                 const unsigned char* mask, const float* factors0, const float* factors1, T* dx0, T* dx1,          \
                                 long long rows, int c, int chunk_rows) {                                                          \
    const Operands<T> in = {{x0, x1}, {saved0, saved1}};                                                                           \
    const float* const factors[2] = {factors0, factors1};                                                                          \
    T* const dx[2] = {dx0, dx1};                                                                                                   \
    if (by_eight(in, c, aligned(dy) && aligned(dx0) && aligned(dx1)))                                                              \
      input_gradients<T, true>(in, dy, mask, factors, dx, rows, c, chunk_rows);                                                    \
    else input_gradients<T, false>(in, dy, mask, factors, dx, rows, c, chunk_rows);                                                \
  }

BY_ELEMENT(float, f32)
BY_ELEMENT(half16, f16)
BY_ELEMENT(bfloat16, bf16)
