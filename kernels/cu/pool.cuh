// Windows of pooling, and max pooling of one pixel, forward and backward.
#pragma once
#include "arguments.cuh"
#include "channels.cuh"

/// V adjacent bytes.
template <int V> struct alignas(V) Bytes { unsigned char v[V]; };

/// Taps [first, last) of window `i` that lie inside the image; tap t is at `start + t * dilation`.
struct Window {
  int start, first, last;
  __device__ Window(const Pool& p, int axis, int i) {
    const int dilation = p.dilation[axis];
    start = i * p.stride[axis] - p.padding[axis];
    first = start < 0 ? (-start + dilation - 1) / dilation : 0;
    last = min(p.kernel[axis], (p.size[axis] - start + dilation - 1) / dilation);
  }
};

/// Windows first ..= last that may cover a position, and the tap of each at that position.
struct Cover {
  int at, stride, dilation, first, last;
  __device__ Cover(const Pool& p, int axis, int position) {
    at = position + p.padding[axis];
    stride = p.stride[axis];
    dilation = p.dilation[axis];
    const int reach = at - (p.kernel[axis] - 1) * dilation;
    first = reach > 0 ? (reach + stride - 1) / stride : 0;
    last = min(p.out[axis] - 1, at / stride);
  }
  /// Tap of `window` at the position; -1 if dilation skips it.
  __device__ int tap(int window) const {
    const int offset = at - window * stride;
    if (dilation == 1) return offset;
    return offset % dilation == 0 ? offset / dilation : -1;
  }
};

/// Loops over this thread's elements of `rows` rows of `width` pixels of c channels: `row`, and `i` = pixel * packs + pack of V channels.
#define FOR_PIXELS(V, rows, width, c)                                                                        \
  const int packs = (c) / (V);                                                                               \
  for (long long row = blockIdx.y; row < (rows); row += gridDim.y)                                           \
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < (width) * packs; i += gridDim.x * kThreads)

/// Writes the maximum of window number i, V channels wide, of row `row` of y, and its tap: the first among equals, NaN above all, -infinity
/// for a window without pixels. `map` is applied to the loaded values.
template <typename T, int V, typename Map>
__device__ __forceinline__ void window_maximum(const T* x, T* y, unsigned char* index, const Pool& p, long long row, int i,
                                               const Map& map) {
  const int packs = p.c / V, ox = i / packs, j = (i - ox * packs) * V, oy = (int)(row % p.out[0]);
  const T* image = x + row / p.out[0] * p.size[0] * p.size[1] * p.c + j;
  const Window vertical(p, 0, oy), horizontal(p, 1, ox);
  const int first_row = vertical.first < vertical.last ? vertical.first : 0;
  const int first_column = horizontal.first < horizontal.last ? horizontal.first : 0;
  float best[V];
  int chosen[V];
#pragma unroll
  for (int k = 0; k < V; k++) {
    best[k] = __int_as_float(0xff800000);
    chosen[k] = first_row * p.kernel[1] + first_column;
  }
  for (int ty = vertical.first; ty < vertical.last; ty++) {
    const T* line = image + (long long)(vertical.start + ty * p.dilation[0]) * p.size[1] * p.c;
    for (int tx = horizontal.first; tx < horizontal.last; tx++) {
      float v[V];
      load<V>(line + (long long)(horizontal.start + tx * p.dilation[1]) * p.c, v);
      map(v);
      const int tap = ty * p.kernel[1] + tx;
#pragma unroll
      for (int k = 0; k < V; k++) {
        const bool better = v[k] > best[k] || v[k] != v[k];
        best[k] = better ? v[k] : best[k];
        chosen[k] = better ? tap : chosen[k];
      }
    }
  }
  const long long at = (row * p.out[1] + ox) * p.c + j;
  Bytes<V> taps;
#pragma unroll
  for (int k = 0; k < V; k++) taps.v[k] = (unsigned char)chosen[k];
  store<V>(y + at, best);
  *reinterpret_cast<Bytes<V>*>(index + at) = taps;
}

/// Sum of dy over the windows whose maximum is the pixel in column ix of row `row` of x, for V channels from j on.
template <typename T, int V>
__device__ __forceinline__ void gather_maxima(const T* dy, const unsigned char* index, const Pool& p, long long row, int ix, int j,
                                              float (&sum)[V]) {
  const int iy = (int)(row % p.size[0]);
  const long long image = row / p.size[0] * p.out[0] * p.out[1] * p.c + j;
  const Cover vertical(p, 0, iy), horizontal(p, 1, ix);
#pragma unroll
  for (int k = 0; k < V; k++) sum[k] = 0;
  for (int oy = vertical.last; oy >= vertical.first; oy--) {
    for (int ox = horizontal.last; ox >= horizontal.first; ox--) {
      const int ty = vertical.tap(oy), tx = horizontal.tap(ox);
      if (ty < 0 || tx < 0) continue;
      const int tap = ty * p.kernel[1] + tx;
      const long long at = image + ((long long)oy * p.out[1] + ox) * p.c;
      const Bytes<V> taps = *reinterpret_cast<const Bytes<V>*>(index + at);
      float g[V];
      load<V>(dy + at, g);
#pragma unroll
      for (int k = 0; k < V; k++) sum[k] += taps.v[k] == tap ? g[k] : 0;
    }
  }
}
