// Comparisons, y = 1 where they hold, else 0, and choices by a mask. An operand has as many elements as the result, or one: its step is
// then 0.
#include "fornax.cuh"

namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float value(float x) { return x; }
__device__ __forceinline__ float value(half16 x) { return to_float(x); }
__device__ __forceinline__ float value(bfloat16 x) { return to_float(x); }
__device__ __forceinline__ long long value(long long x) { return x; }
__device__ __forceinline__ int value(unsigned char x) { return x; }

#define COMPARISON(Name, condition)                                                                                   \
  struct Name {                                                                                                       \
    template <typename T> __device__ __forceinline__ bool operator()(T a, T b) const { return condition; }            \
  };

COMPARISON(Eq, a == b)
COMPARISON(Ne, a != b)
COMPARISON(Lt, a < b)
COMPARISON(Le, a <= b)

template <typename T, typename F>
__device__ void compare(const T* a, const T* b, unsigned char* y, long long n, int a_step, int b_step, const F& holds) {
  const long long step = (long long)gridDim.x * kThreads;
  for (long long i = (long long)blockIdx.x * kThreads + threadIdx.x; i < n; i += step)
    y[i] = holds(value(a[i * a_step]), value(b[i * b_step])) ? 1 : 0;
}

template <typename T>
__device__ void choose(const unsigned char* mask, const T* a, const T* b, T* y, long long n, int a_step, int b_step) {
  const long long step = (long long)gridDim.x * kThreads;
  for (long long i = (long long)blockIdx.x * kThreads + threadIdx.x; i < n; i += step)
    y[i] = mask[i] ? a[i * a_step] : b[i * b_step];
}

}  // namespace

#define COMPARE(F, f, T, t)                                                                       \
  extern "C" __global__ void __launch_bounds__(kThreads)                                          \
      f##_##t(const T* a, const T* b, unsigned char* y, long long n, int a_step, int b_step) {    \
    compare(a, b, y, n, a_step, b_step, F{});                                                     \
  }

#define WHERE(T, t)                                                                                                     \
  extern "C" __global__ void __launch_bounds__(kThreads)                                                                \
      where_##t(const unsigned char* mask, const T* a, const T* b, T* y, long long n, int a_step, int b_step) {         \
    choose(mask, a, b, y, n, a_step, b_step);                                                                           \
  }

#define ALL(T, t)        \
  COMPARE(Eq, eq, T, t)  \
  COMPARE(Ne, ne, T, t)  \
  COMPARE(Lt, lt, T, t)  \
  COMPARE(Le, le, T, t)  \
  WHERE(T, t)

ALL(float, f32)
ALL(half16, f16)
ALL(bfloat16, bf16)
ALL(long long, i64)
ALL(unsigned char, u8)
