// Activations fused into batch norm, and their derivatives.
#pragma once

#include "arguments.cuh"

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Comparisons are written so that NaN propagates.
__device__ __forceinline__ float clamp(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

template <int V> __device__ __forceinline__ void activate(int f, float (&x)[V]) {
  switch (f) {
    case kRelu:
#pragma unroll
      for (int k = 0; k < V; k++) x[k] = x[k] < 0 ? 0 : x[k];
      break;
    case kRelu6:
#pragma unroll
      for (int k = 0; k < V; k++) x[k] = clamp(x[k], 0, 6);
      break;
    case kSilu:
#pragma unroll
      for (int k = 0; k < V; k++) x[k] *= sigmoid(x[k]);
      break;
    case kHardSwish:
#pragma unroll
      for (int k = 0; k < V; k++) x[k] *= clamp(x[k] + 3, 0, 6) * (1.0f / 6);
      break;
    default: break;
  }
}

/// d *= f'(x)
template <int V> __device__ __forceinline__ void multiply_by_derivative(int f, const float (&x)[V], float (&d)[V]) {
  switch (f) {
    case kRelu:
#pragma unroll
      for (int k = 0; k < V; k++) d[k] *= x[k] > 0 ? 1.0f : 0.0f;
      break;
    case kRelu6:
#pragma unroll
      for (int k = 0; k < V; k++) d[k] *= x[k] > 0 && x[k] < 6 ? 1.0f : 0.0f;
      break;
    case kSilu:
#pragma unroll
      for (int k = 0; k < V; k++) {
        const float s = sigmoid(x[k]);
        d[k] *= s * (1 + x[k] * (1 - s));
      }
      break;
    case kHardSwish:
#pragma unroll
      for (int k = 0; k < V; k++) {
        const float low = x[k] > -3 ? x[k] * (1.0f / 3) + 0.5f : 0;
        d[k] *= x[k] < 3 ? low : 1;
      }
      break;
    default: break;
  }
}

/// d *= f'(z), with z = x * scale + shift + residual.
template <int V>
__device__ __forceinline__ void multiply_by_derivative(int f, const float (&x)[V], const float (&scale)[V], const float (&shift)[V],
                                                       const float (&residual)[V], float (&d)[V]) {
  float z[V];
#pragma unroll
  for (int k = 0; k < V; k++) z[k] = residual[k] + fmaf(x[k], scale[k], shift[k]);
  multiply_by_derivative(f, z, d);
}
