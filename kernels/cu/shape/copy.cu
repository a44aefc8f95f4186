// Data movement: fill, strided copies (permute, expand, slice, concatenate, flip), and transposition through shared memory. Elements are
// opaque values of 8 to 64 bits.
#include "strided_pair.cuh"

namespace {

typedef unsigned char b8;
typedef unsigned short b16;
typedef unsigned int b32;
typedef unsigned long long b64;

template <typename T> __device__ void fill(T* y, long long n, T value) {
  constexpr int N = Pack<T>::N;
  const GridStride loop;
  const long long packs = aligned(y) ? n / N : 0;
  Pack<T> pack;
#pragma unroll
  for (int k = 0; k < N; k++) pack.v[k] = value;
  for (long long i = loop.first; i < packs; i += loop.step) pack.store(y + i * N);
  for (long long i = packs * N + loop.first; i < n; i += loop.step) y[i] = value;
}

/// Copies x (array a, any strides) to y (array b, dense within rows).
template <typename T> __device__ void strided_copy(const T* __restrict__ x, T* __restrict__ y, const StridedPair& pair) {
  constexpr int N = Pack<T>::N;
  const GridStride loop;
  const bool repeats = pair.a_stride == 0;
  long long in_x, in_y;
  if (pair.packed && aligned(y) && (repeats || aligned(x))) {
    for (long long i = loop.first * N; i < pair.n; i += loop.step * N) {
      locate(pair, i, in_x, in_y);
      Pack<T> pack;
      if (repeats) {
#pragma unroll
        for (int k = 0; k < N; k++) pack.v[k] = x[in_x];
      } else {
        pack = Pack<T>::load(x + in_x);
      }
      pack.store(y + in_y);
    }
    return;
  }
  for (long long i = loop.first; i < pair.n; i += loop.step) {
    locate(pair, i, in_x, in_y);
    y[in_y] = x[in_x];
  }
}

constexpr int kTile = 32;

/// y[batch, columns, rows] = x[batch, rows, columns]. A block moves square tiles, so that both reads and writes are coalesced.
template <typename T> __device__ void transpose(const T* __restrict__ x, T* __restrict__ y, long long batch, int rows, int columns) {
  // The odd width avoids bank conflicts along a column.
  __shared__ T tile[kTile][kTile + 1];
  const int across = (columns + kTile - 1) / kTile, down = (rows + kTile - 1) / kTile;
  const int lane = threadIdx.x % kTile, line = threadIdx.x / kTile;
  for (long long block = blockIdx.x; block < batch * across * down; block += gridDim.x) {
    const long long matrix = block / across / down * rows * columns;
    const int left = (int)(block % across) * kTile, top = (int)(block / across % down) * kTile;
    for (int i = line; i < kTile && top + i < rows; i += kThreads / kTile) {
      if (left + lane < columns) tile[i][lane] = x[matrix + (long long)(top + i) * columns + left + lane];
    }
    __syncthreads();
    for (int i = line; i < kTile && left + i < columns; i += kThreads / kTile) {
      if (top + lane < rows) y[matrix + (long long)(left + i) * rows + top + lane] = tile[lane][i];
    }
    __syncthreads();
  }
}

}  // namespace

#define COPY(T)                                                                              \
  KERNEL fill_##T(T* y, long long n, unsigned long long value) { fill<T>(y, n, (T)value); }  \
  KERNEL copy_##T(const T* x, T* y, const __grid_constant__ StridedPair pair) { strided_copy<T>(x, y, pair); }       \
  KERNEL transpose_##T(const T* x, T* y, long long batch, int rows, int columns) {           \
    transpose<T>(x, y, batch, rows, columns);                                                \
  }

COPY(b8)
COPY(b16)
COPY(b32)
COPY(b64)
