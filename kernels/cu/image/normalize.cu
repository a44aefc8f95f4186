// Normalization of u8 images, channels last: y = (x / max_value - mean) / std by channel.
#include "arguments.cuh"
#include "elementwise.cuh"

namespace {

/// Normalization by mean and standard deviation from the kernel's arguments, which are not indexed at run time.
struct InlineChannels {
  const InlineMeanStd& of;

  __device__ __forceinline__ float operator()(float value, int channel) const {
    float m = of.mean[0], s = of.std[0];
#pragma unroll
    for (int k = 1; k < kInlineChannels; k++) {
      m = channel == k ? of.mean[k] : m;
      s = channel == k ? of.std[k] : s;
    }
    return (value - m) / s;
  }
};

/// Normalization by mean and standard deviation of any number of channels, in device memory.
struct DeviceMeanStd {
  const float* __restrict__ mean;
  const float* __restrict__ std;

  __device__ __forceinline__ float operator()(float value, int channel) const { return (value - mean[channel]) / std[channel]; }
};

template <typename T, typename Channels>
__device__ void normalize(const unsigned char* __restrict__ x, T* __restrict__ y, long long n, int c, float max_value,
                          const Channels& channels) {
  constexpr int N = Pack<T>::N;
  const GridStride loop;
  const bool packs = aligned(y) && reinterpret_cast<unsigned long long>(x) % N == 0;
  const long long whole = packs ? n / N : 0;
  for (long long i = loop.first; i < whole; i += loop.step) {
    struct alignas(N) Bytes { unsigned char v[N]; };
    const Bytes bytes = *reinterpret_cast<const Bytes*>(x + i * N);
    int channel = (int)(i * N % c);
    Pack<T> pack;
#pragma unroll
    for (int k = 0; k < N; k++) {
      pack.v[k] = from_float<T>(channels((float)bytes.v[k] / max_value, channel));
      channel = channel + 1 == c ? 0 : channel + 1;
    }
    pack.store(y + i * N);
  }
  for (long long i = whole * N + loop.first; i < n; i += loop.step) {
    y[i] = from_float<T>(channels((float)x[i] / max_value, (int)(i % c)));
  }
}

}  // namespace

#define NORMALIZE(T, name)                                                                                                    \
  KERNEL normalize_##name(const unsigned char* x, T* y, long long n, int c, float max_value,                                  \
                          const __grid_constant__ InlineMeanStd channels) {                                                   \
    normalize<T>(x, y, n, c, max_value, InlineChannels{channels});                                                            \
  }                                                                                                                           \
  KERNEL normalize_device_stats_##name(const unsigned char* x, T* y, long long n, int c, float max_value, const float* mean,  \
                               const float* std) {                                                                            \
    normalize<T>(x, y, n, c, max_value, DeviceMeanStd{mean, std});                                                            \
  }

NORMALIZE(float, f32)
NORMALIZE(half16, f16)
NORMALIZE(bfloat16, bf16)
