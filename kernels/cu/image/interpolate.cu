// Resampling of channels-last images along both axes: interpolation and its transpose, the backward pass. Each axis is described by a
// table with one row of `stride` floats per output: first input and number of inputs, both as integer bits, then the weights.
#include "arguments.cuh"
#include "channels.cuh"

namespace {

/// y[n, i, j, c] = sum over k, l of vertical[i, k] * horizontal[j, l] * x[n, k, l, c]. A thread handles V channels of one pixel;
/// blockIdx.x strides over the pixels of a row, blockIdx.y over the rows of all images.
template <typename T, int V>
__device__ void resample(const T* __restrict__ x, T* __restrict__ y, long long rows, const float* __restrict__ vertical,
                         const float* __restrict__ horizontal, const Resampling& s) {
  const int packs = s.c / V;
  for (long long row = blockIdx.y; row < rows; row += gridDim.y) {
    const float* up = vertical + row % s.outputs[0] * s.stride[0];
    const long long top = row / s.outputs[0] * s.inputs[0] + __float_as_int(up[0]);
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < s.outputs[1] * packs; i += gridDim.x * kThreads) {
      const int pixel = i / packs, j = (i - pixel * packs) * V;
      const float* across = horizontal + (long long)pixel * s.stride[1];
      float sum[V] = {};
      for (int k = 0; k < __float_as_int(up[1]); k++) {
        const T* line = x + ((top + k) * s.inputs[1] + __float_as_int(across[0])) * s.c + j;
        float row_sum[V] = {};
        for (int l = 0; l < __float_as_int(across[1]); l++) {
          float v[V];
          load<V>(line + (long long)l * s.c, v);
#pragma unroll
          for (int q = 0; q < V; q++) row_sum[q] = fmaf(across[2 + l], v[q], row_sum[q]);
        }
#pragma unroll
        for (int q = 0; q < V; q++) sum[q] = fmaf(up[2 + k], row_sum[q], sum[q]);
      }
      store<V>(y + (row * s.outputs[1] + pixel) * s.c + j, sum);
    }
  }
}

}  // namespace

#define INTERPOLATE(T, name)                                                                                               \
  KERNEL interpolate_##name(const T* x, T* y, long long rows, const float* vertical, const float* horizontal,              \
                            Resampling s) {                                                                                \
    if (in_packs<T>(s.c, aligned(x) && aligned(y))) resample<T, Pack<T>::N>(x, y, rows, vertical, horizontal, s);          \
    else resample<T, 1>(x, y, rows, vertical, horizontal, s);                                                              \
  }

INTERPOLATE(float, f32)
INTERPOLATE(half16, f16)
INTERPOLATE(bfloat16, bf16)
