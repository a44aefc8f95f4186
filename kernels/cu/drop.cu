// Dropout (Srivastava et al., 2014) by Philox4x32-10 (Salmon et al., 2011): the draws are those of the CPU's `random::Stream`, word i for
// element i, so that a device and the CPU drop the same elements, forward and backward.
#include "elementwise.cuh"
#include "philox.cuh"

namespace {

/// Uniform in [0, 1), a multiple of 2^-24.
__device__ __forceinline__ float uniform(unsigned word) { return (float)(word >> 8) * (1.0f / (1 << 24)); }

/// y = draw < keep ? factor * x : 0. A thread has the four elements of a block of draws. The sample is `step` further on, where there is
/// one: it is read here, so that a recorded launch that is replayed draws anew.
template <typename T>
__device__ void drop(const T* x, T* y, long long n, float keep, float factor, Draws draws, const long long* step) {
  if (step) {
    const unsigned long long sample = ((unsigned long long)draws.counter[2] << 32 | draws.counter[1]) + *step;
    draws.counter[1] = (unsigned)sample;
    draws.counter[2] = (unsigned)(sample >> 32);
  }
  const Stride loop;
  for (long long block = loop.first; block * 4 < n; block += loop.step) {
    unsigned words[4];
    philox(draws, (unsigned)block, words);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const long long i = block * 4 + k;
      if (i < n) y[i] = from_float<T>(uniform(words[k]) < keep ? factor * to_float(x[i]) : 0.0f);
    }
  }
}

}  // namespace

#define DROP(T, name)                                                                         \
  KERNEL drop_##name(const T* x, T* y, long long n, float keep, float factor, Draws draws,    \
                     const long long* step) {                                                 \
    drop<T>(x, y, n, keep, factor, draws, step);                                              \
  }

DROP(float, f32)
DROP(half16, f16)
DROP(bfloat16, bf16)
