// Sums over the middle axis of [outer, n, inner], in f32, times a factor. One launch sums chunks of the axis, whose size depends on the
// shape alone; a second one sums the results of the chunks. Within a chunk a thread sums elements at a fixed distance, and the threads'
// sums are added in a fixed tree.
#include "rows.cuh"

namespace {

/// inner = 1: out[row, chunk], one team per chunk.
template <typename T, typename Out, int V, int W>
__device__ void sum_rows(const T* __restrict__ x, Out* __restrict__ out, long long rows, long long n, long long chunk,
                         float factor) {
  const Team<W> team;
  const long long chunks = (n + chunk - 1) / chunk;
  for (long long item = team.first; item < rows * chunks; item += team.step) {
    const long long row = item / chunks, first = (item - row * chunks) * chunk;
    const long long end = first + chunk < n ? first + chunk : n;
    float sums[V] = {};
    for (long long i = first + team.thread * V; i < end; i += Team<W>::kSize * V) {
      float v[V];
      load<V>(x + row * n + i, v);
#pragma unroll
      for (int k = 0; k < V; k++) sums[k] += v[k];
    }
#pragma unroll
    for (int half = V / 2; half > 0; half /= 2) {
#pragma unroll
      for (int k = 0; k < half; k++) sums[k] += sums[k + half];
    }
    const float sum = team.sum(sums[0]);
    if (team.thread == 0) out[item] = from_float<Out>(sum * factor);
  }
}

/// inner > 1: out[outer, chunk, inner], one block per chunk and tile of columns.
template <typename T, typename Out, int V>
__device__ void sum_columns(const T* __restrict__ x, Out* __restrict__ out, long long n, int inner, int chunk, float factor) {
  const Tile<V> tile(inner);
  const long long chunks = (n + chunk - 1) / chunk, item = blockIdx.x / tile.count;
  const long long outer = item / chunks, first = (item - outer * chunks) * chunk;
  const int at = tile.channel((int)(blockIdx.x - item * tile.count));
  const int rows = (int)(n - first < chunk ? n - first : chunk);
  const T* from = x + (outer * n + first) * inner + at;
  float sums[V] = {};
  if (at < inner) {
    for_rows<4>(
        tile.row, rows, tile.rows, [&](int row) { return Stored<T, V>::load(from + (long long)row * inner); },
        [&](int, const Stored<T, V>& stored) {
          float v[V];
          stored.widen(v);
#pragma unroll
          for (int k = 0; k < V; k++) sums[k] += v[k];
        });
  }
  sum_over_rows(sums, tile.lanes);
  if (at < inner && tile.row == 0) {
#pragma unroll
    for (int k = 0; k < V; k++) out[item * inner + at + k] = from_float<Out>(sums[k] * factor);
  }
}

}  // namespace

#define SUM(T, Out, from, to)                                                                                            \
  KERNEL sum_rows_##from##_##to(const T* x, Out* out, long long rows, long long n, long long chunk, int is_long,         \
                                float factor) {                                                                          \
    const bool packs = aligned(x) && n % Pack<T>::N == 0;                                                                \
    if (packs && is_long) sum_rows<T, Out, Pack<T>::N, kLong>(x, out, rows, n, chunk, factor);                           \
    else if (packs) sum_rows<T, Out, Pack<T>::N, 1>(x, out, rows, n, chunk, factor);                                     \
    else if (is_long) sum_rows<T, Out, 1, kLong>(x, out, rows, n, chunk, factor);                                        \
    else sum_rows<T, Out, 1, 1>(x, out, rows, n, chunk, factor);                                                         \
  }                                                                                                                      \
  KERNEL sum_columns_##from##_##to(const T* x, Out* out, long long n, int inner, int chunk, int packed, float factor) {  \
    if (packed) sum_columns<T, Out, Pack<T>::N>(x, out, n, inner, chunk, factor);                                        \
    else sum_columns<T, Out, 1>(x, out, n, inner, chunk, factor);                                                        \
  }

SUM(float, float, f32, f32)
SUM(float, half16, f32, f16)
SUM(float, bfloat16, f32, bf16)
SUM(half16, float, f16, f32)
SUM(half16, half16, f16, f16)
SUM(bfloat16, float, bf16, f32)
SUM(bfloat16, bfloat16, bf16, bf16)
