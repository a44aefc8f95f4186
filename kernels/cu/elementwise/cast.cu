// Conversion between element types by way of float: to a floating-point type rounded to nearest even, to an integer truncated towards
// zero and saturated, with NaN as 0.
#include "fornax.cuh"

namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(half16 x) { return to_float(x); }
__device__ __forceinline__ float widen(bfloat16 x) { return to_float(x); }
__device__ __forceinline__ float widen(long long x) { return (float)x; }
__device__ __forceinline__ float widen(unsigned char x) { return (float)x; }

template <typename T> __device__ __forceinline__ T narrow(float x) { return from_float<T>(x); }

template <> __device__ __forceinline__ long long narrow<long long>(float x) {
  const float limit = 9223372036854775808.0f;  // 2^63
  if (x != x) return 0;
  if (x >= limit) return 9223372036854775807ll;
  return x <= -limit ? -9223372036854775807ll - 1 : (long long)x;
}

template <> __device__ __forceinline__ unsigned char narrow<unsigned char>(float x) {
  return x > 0 ? (unsigned char)(int)fminf(x, 255) : 0;
}

/// N adjacent elements, read and written at once; N is the number of elements of the larger type in 16 bytes.
template <typename T, int N> struct alignas(N * sizeof(T)) Group {
  T v[N];
  __device__ static bool fits(const void* p) { return reinterpret_cast<unsigned long long>(p) % sizeof(Group) == 0; }
};

template <typename From, typename To> __device__ void convert(const From* __restrict__ x, To* __restrict__ y, long long n) {
  constexpr int N = 16 / (sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
  const long long first = (long long)blockIdx.x * kThreads + threadIdx.x, step = (long long)gridDim.x * kThreads;
  const long long groups = Group<From, N>::fits(x) && Group<To, N>::fits(y) ? n / N : 0;
  for (long long i = first; i < groups; i += step) {
    const Group<From, N> from = reinterpret_cast<const Group<From, N>*>(x)[i];
    Group<To, N> to;
#pragma unroll
    for (int k = 0; k < N; k++) to.v[k] = narrow<To>(widen(from.v[k]));
    reinterpret_cast<Group<To, N>*>(y)[i] = to;
  }
  for (long long i = groups * N + first; i < n; i += step) y[i] = narrow<To>(widen(x[i]));
}

}  // namespace

#define CAST(From, To, from, to)                                                                                  \
  extern "C" __global__ void __launch_bounds__(kThreads) cast_##from##_##to(const From* x, To* y, long long n) {  \
    convert<From, To>(x, y, n);                                                                                   \
  }

CAST(float, half16, f32, f16)
CAST(float, bfloat16, f32, bf16)
CAST(float, long long, f32, i64)
CAST(float, unsigned char, f32, u8)
CAST(half16, float, f16, f32)
CAST(half16, bfloat16, f16, bf16)
CAST(half16, long long, f16, i64)
CAST(half16, unsigned char, f16, u8)
CAST(bfloat16, float, bf16, f32)
CAST(bfloat16, half16, bf16, f16)
CAST(bfloat16, long long, bf16, i64)
CAST(bfloat16, unsigned char, bf16, u8)
CAST(long long, float, i64, f32)
CAST(long long, half16, i64, f16)
CAST(long long, bfloat16, i64, bf16)
CAST(long long, unsigned char, i64, u8)
CAST(unsigned char, float, u8, f32)
CAST(unsigned char, half16, u8, f16)
CAST(unsigned char, bfloat16, u8, bf16)
CAST(unsigned char, long long, u8, i64)
