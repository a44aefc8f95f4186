// Functions of single elements over dense arrays: packs of 16 bytes where every array begins with one, the rest by elements.
#pragma once
#include "channels.cuh"

/// The first of a thread's items in a loop over all, and the distance to its next.
struct Stride {
  long long first = (long long)blockIdx.x * kThreads + threadIdx.x;
  long long step = (long long)gridDim.x * kThreads;
};

/// y = f(x), which may be in place.
template <typename T, typename F> __device__ void map(const T* x, T* y, long long n, const F& f) {
  constexpr int N = Pack<T>::N;
  const Stride loop;
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

/// y = f(a, b), which may be in the place of either.
template <typename T, typename F> __device__ void map_pairs(const T* a, const T* b, T* y, long long n, const F& f) {
  constexpr int N = Pack<T>::N;
  const Stride loop;
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
