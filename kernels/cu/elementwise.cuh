// Elementwise loops over dense arrays: by packs of 16 bytes where every array is aligned to 16 bytes, otherwise and at the end by elements.
#pragma once
#include "channels.cuh"

/// Grid-stride loop: a thread's first item and the distance to its next.
struct GridStride {
  long long first = (long long)blockIdx.x * kThreads + threadIdx.x;
  long long step = (long long)gridDim.x * kThreads;
};

/// y = f(x); y may alias x.
template <typename T, typename F> __device__ void map(const T* x, T* y, long long n, const F& f) {
  constexpr int N = Pack<T>::N;
  const GridStride loop;
  const long long packs = aligned(x) && aligned(y) ? n / N : 0;
  for (long long i = loop.first; i < packs; i += loop.step) {
    float v[N];
    load<N>(x + i * N, v);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = f(v[k]);
    store<N>(y + i * N, v);
  }
  for (long long i = packs * N + loop.first; i < n; i += loop.step) y[i] = from_float<T>(f(to_float(x[i])));
}

/// y = f(a, b); y may alias a or b.
template <typename T, typename F> __device__ void map_pairs(const T* a, const T* b, T* y, long long n, const F& f) {
  constexpr int N = Pack<T>::N;
  const GridStride loop;
  const long long packs = aligned(a) && aligned(b) && aligned(y) ? n / N : 0;
  for (long long i = loop.first; i < packs; i += loop.step) {
    float v[N], w[N];
    load<N>(a + i * N, v);
    load<N>(b + i * N, w);
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = f(v[k], w[k]);
    store<N>(y + i * N, v);
  }
  for (long long i = packs * N + loop.first; i < n; i += loop.step) y[i] = from_float<T>(f(to_float(a[i]), to_float(b[i])));
}
