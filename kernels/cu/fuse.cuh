// Helpers of generated pointwise kernels: scalar functions, and loads and stores of adjacent elements in any dtype as floats.
#pragma once
#include "elementwise.cuh"

// Comparisons are written so that NaN propagates.
__device__ __forceinline__ float relu(float x) { return x < 0 ? 0 : x; }
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float softplus(float x) { return log1pf(expf(-fabsf(x))) + relu(x); }
__device__ __forceinline__ float larger(float a, float b) { return a != a || a > b ? a : b; }
__device__ __forceinline__ float smaller(float a, float b) { return a != a || a < b ? a : b; }

/// Loads V adjacent elements as floats, where V is 1, the size of a pack of T, or 8 for f32 next to 16-bit packs.
template <int V, typename T> __device__ __forceinline__ void fetch(const T* from, float (&to)[V]) {
  if constexpr (V == 1 || V == Pack<T>::N) load<V>(from, to);
  else load_floats<V>(from, to);
}

/// Rounds V floats and stores them as adjacent elements.
template <int V, typename T> __device__ __forceinline__ void put(T* to, const float (&from)[V]) {
  if constexpr (V == 1 || V == Pack<T>::N) {
    store<V>(to, from);
  } else {
#pragma unroll
    for (int k = 0; k < V; k += 4) {
      *reinterpret_cast<float4*>(to + k) = make_float4(from[k], from[k + 1], from[k + 2], from[k + 3]);
    }
  }
}
