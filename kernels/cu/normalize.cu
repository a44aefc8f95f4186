// Images of bytes as numbers: y = (x / white - mean) / std by channel, channels last.
#include "elementwise.cuh"

namespace {

template <typename T>
__device__ void normalize(const unsigned char* __restrict__ x, T* __restrict__ y, long long n, int c, float white, const float* __restrict__ mean,
                          const float* __restrict__ std) {
  constexpr int N = Pack<T>::N;
  const Stride loop;
  const bool packs = aligned(y) && reinterpret_cast<unsigned long long>(x) % N == 0;
  const long long whole = packs ? n / N : 0;
  for (long long i = loop.first; i < whole; i += loop.step) {
    struct alignas(N) Bytes { unsigned char v[N]; };
    const Bytes bytes = *reinterpret_cast<const Bytes*>(x + i * N);
    int channel = (int)(i * N % c);
    Pack<T> pack;
#pragma unroll
    for (int k = 0; k < N; k++) {
      pack.v[k] = from_float<T>(((float)bytes.v[k] / white - mean[channel]) / std[channel]);
      channel = channel + 1 == c ? 0 : channel + 1;
    }
    pack.store(y + i * N);
  }
  for (long long i = whole * N + loop.first; i < n; i += loop.step) {
    const int channel = (int)(i % c);
    y[i] = from_float<T>(((float)x[i] / white - mean[channel]) / std[channel]);
  }
}

}  // namespace

#define NORMALIZE(T, name)                                                                                                       \
  KERNEL normalize_##name(const unsigned char* x, T* y, long long n, int c, float white, const float* mean, const float* std) {  \
    normalize<T>(x, y, n, c, white, mean, std);                                                                                  \
  }

NORMALIZE(float, f32)
NORMALIZE(half16, f16)
NORMALIZE(bfloat16, bf16)
