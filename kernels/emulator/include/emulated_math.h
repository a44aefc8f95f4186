// CUDA's math and bit intrinsics for the emulated device: the C library's functions with CUDA's names and overloads.
#pragma once

#define FORNAX_FUNCTION static inline __attribute__((unused))

#define FORNAX_UNARY(NAME)                                          \
  extern "C" float NAME##f(float) noexcept(true);                   \
  extern "C" double NAME(double) noexcept(true);                    \
  FORNAX_FUNCTION float NAME(float x) { return NAME##f(x); }
FORNAX_UNARY(acos) FORNAX_UNARY(asin) FORNAX_UNARY(atan) FORNAX_UNARY(cbrt) FORNAX_UNARY(ceil) FORNAX_UNARY(cos)
FORNAX_UNARY(cosh) FORNAX_UNARY(erf) FORNAX_UNARY(erfc) FORNAX_UNARY(exp) FORNAX_UNARY(exp2) FORNAX_UNARY(expm1)
FORNAX_UNARY(fabs) FORNAX_UNARY(floor) FORNAX_UNARY(log) FORNAX_UNARY(log10) FORNAX_UNARY(log1p) FORNAX_UNARY(log2)
FORNAX_UNARY(nearbyint) FORNAX_UNARY(rint) FORNAX_UNARY(round) FORNAX_UNARY(sin) FORNAX_UNARY(sinh) FORNAX_UNARY(sqrt)
FORNAX_UNARY(tan) FORNAX_UNARY(tanh) FORNAX_UNARY(tgamma) FORNAX_UNARY(lgamma) FORNAX_UNARY(trunc)

#define FORNAX_BINARY(NAME)                                                   \
  extern "C" float NAME##f(float, float) noexcept(true);                      \
  extern "C" double NAME(double, double) noexcept(true);                      \
  FORNAX_FUNCTION float NAME(float x, float y) { return NAME##f(x, y); }
FORNAX_BINARY(atan2) FORNAX_BINARY(copysign) FORNAX_BINARY(fmax) FORNAX_BINARY(fmin) FORNAX_BINARY(fmod)
FORNAX_BINARY(hypot) FORNAX_BINARY(pow) FORNAX_BINARY(remainder)

extern "C" float fmaf(float, float, float) noexcept(true);
extern "C" double fma(double, double, double) noexcept(true);
FORNAX_FUNCTION float fma(float x, float y, float z) { return fmaf(x, y, z); }
extern "C" float ldexpf(float, int) noexcept(true);
extern "C" float frexpf(float, int*) noexcept(true);
extern "C" long lrintf(float) noexcept(true);
extern "C" long long llrintf(float) noexcept(true);
extern "C" int printf(const char*, ...);
extern "C" int abs(int) noexcept(true);
FORNAX_FUNCTION long long abs(long long x) { return x < 0 ? -x : x; }
FORNAX_FUNCTION float abs(float x) { return fabsf(x); }
FORNAX_FUNCTION double abs(double x) { return fabs(x); }
FORNAX_FUNCTION float rsqrtf(float x) { return 1.0f / sqrtf(x); }
FORNAX_FUNCTION double rsqrt(double x) { return 1.0 / sqrt(x); }
FORNAX_FUNCTION double cospi(double x) { return cos(3.141592653589793 * x); }
FORNAX_FUNCTION float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }

FORNAX_FUNCTION bool isnan(float x) { return __builtin_isnan(x); }
FORNAX_FUNCTION bool isnan(double x) { return __builtin_isnan(x); }
FORNAX_FUNCTION bool isinf(float x) { return __builtin_isinf(x); }
FORNAX_FUNCTION bool isinf(double x) { return __builtin_isinf(x); }
FORNAX_FUNCTION bool isfinite(float x) { return __builtin_isfinite(x); }
FORNAX_FUNCTION bool isfinite(double x) { return __builtin_isfinite(x); }
FORNAX_FUNCTION bool signbit(float x) { return __builtin_signbit(x); }

#define FORNAX_MIN_MAX(T)                                            \
  FORNAX_FUNCTION T min(T a, T b) { return b < a ? b : a; }          \
  FORNAX_FUNCTION T max(T a, T b) { return a < b ? b : a; }
FORNAX_MIN_MAX(int) FORNAX_MIN_MAX(unsigned) FORNAX_MIN_MAX(long) FORNAX_MIN_MAX(unsigned long)
FORNAX_MIN_MAX(long long) FORNAX_MIN_MAX(unsigned long long)
FORNAX_FUNCTION float min(float a, float b) { return fminf(a, b); }
FORNAX_FUNCTION float max(float a, float b) { return fmaxf(a, b); }
FORNAX_FUNCTION double min(double a, double b) { return fmin(a, b); }
FORNAX_FUNCTION double max(double a, double b) { return fmax(a, b); }

template <class To, class From>
FORNAX_FUNCTION To fornax_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}
FORNAX_FUNCTION float __int_as_float(int x) { return fornax_bits<float>(x); }
FORNAX_FUNCTION int __float_as_int(float x) { return fornax_bits<int>(x); }
FORNAX_FUNCTION float __uint_as_float(unsigned x) { return fornax_bits<float>(x); }
FORNAX_FUNCTION unsigned __float_as_uint(float x) { return fornax_bits<unsigned>(x); }
FORNAX_FUNCTION double __longlong_as_double(long long x) { return fornax_bits<double>(x); }
FORNAX_FUNCTION long long __double_as_longlong(double x) { return fornax_bits<long long>(x); }

// Results rounded once, never contracted to an FMA.
FORNAX_FUNCTION float fornax_rounded(float x) {
  asm("" : "+m"(x));
  return x;
}
FORNAX_FUNCTION float __fadd_rn(float x, float y) { return fornax_rounded(x + y); }
FORNAX_FUNCTION float __fsub_rn(float x, float y) { return fornax_rounded(x - y); }
FORNAX_FUNCTION float __fmul_rn(float x, float y) { return fornax_rounded(x * y); }
FORNAX_FUNCTION float __fdiv_rn(float x, float y) { return fornax_rounded(x / y); }
FORNAX_FUNCTION float __fsqrt_rn(float x) { return sqrtf(x); }
FORNAX_FUNCTION float __frcp_rn(float x) { return fornax_rounded(1.0f / x); }
FORNAX_FUNCTION float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
FORNAX_FUNCTION int __float2int_rn(float x) { return int(rintf(x)); }
FORNAX_FUNCTION int __float2int_rd(float x) { return int(floorf(x)); }
FORNAX_FUNCTION int __float2int_ru(float x) { return int(ceilf(x)); }
FORNAX_FUNCTION int __float2int_rz(float x) { return int(x); }

FORNAX_FUNCTION int __popc(unsigned x) { return __builtin_popcount(x); }
FORNAX_FUNCTION int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
FORNAX_FUNCTION int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
FORNAX_FUNCTION int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
FORNAX_FUNCTION int __ffs(int x) { return __builtin_ffs(x); }
FORNAX_FUNCTION int __ffsll(long long x) { return __builtin_ffsll(x); }
FORNAX_FUNCTION unsigned __umulhi(unsigned x, unsigned y) { return unsigned((unsigned long long)x * y >> 32); }
FORNAX_FUNCTION int __mulhi(int x, int y) { return int((long long)x * y >> 32); }
FORNAX_FUNCTION unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return (unsigned long long)((unsigned __int128)x * y >> 64);
}
