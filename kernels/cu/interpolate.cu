// Resampling of channels-last images along both axes: interpolation and its transpose, which is the backward pass. Each axis comes as
// a table, one row of `stride` floats an output: the first input and the number of inputs, both as integer bits, then their weights.
#include "channels.cuh"

/// One axis of a resampling.
struct Axis {
  const float* table;
  int stride, inputs, outputs;
};

namespace {

/// y[n, i, j, c] = sum over k, l of vertical[i, k] * horizontal[j, l] * x[n, k, l, c]. A thread has V channels of one pixel; blockIdx.x
/// walks the pixels of a row, blockIdx.y the rows of all images.
template <typename T, int V>
__device__ void resample(const T* __restrict__ x, T* __restrict__ y, long long rows, int c, const Axis& vertical, const Axis& horizontal) {
  const int packs = c / V;
  for (long long row = blockIdx.y; row < rows; row += gridDim.y) {
    const float* up = vertical.table + row % vertical.outputs * vertical.stride;
    const long long top = row / vertical.outputs * vertical.inputs + __float_as_int(up[0]);
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < horizontal.outputs * packs; i += gridDim.x * kThreads) {
      const int pixel = i / packs, j = (i - pixel * packs) * V;
      const float* across = horizontal.table + (long long)pixel * horizontal.stride;
      float sum[V] = {};
      for (int k = 0; k < __float_as_int(up[1]); k++) {
        const T* line = x + ((top + k) * horizontal.inputs + __float_as_int(across[0])) * c + j;
        float of_row[V] = {};
        for (int l = 0; l < __float_as_int(across[1]); l++) {
          float v[V];
          load<V>(line + (long long)l * c, v);
#pragma unroll
          for (int q = 0; q < V; q++) of_row[q] = fmaf(across[2 + l], v[q], of_row[q]);
        }
#pragma unroll
        for (int q = 0; q < V; q++) sum[q] = fmaf(up[2 + k], of_row[q], sum[q]);
      }
      store<V>(y + (row * horizontal.outputs + pixel) * c + j, sum);
    }
  }
}

}  // namespace

#define INTERPOLATE(T, name)                                                                                    \
  KERNEL interpolate_##name(const T* x, T* y, long long rows, int c, Axis vertical, Axis horizontal) {          \
    if (in_packs<T>(c, aligned(x) && aligned(y))) resample<T, Pack<T>::N>(x, y, rows, c, vertical, horizontal); \
    else resample<T, 1>(x, y, rows, c, vertical, horizontal);                                                   \
  }

INTERPOLATE(float, f32)
INTERPOLATE(half16, f16)
INTERPOLATE(bfloat16, bf16)
