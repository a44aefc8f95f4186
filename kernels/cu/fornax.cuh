// Common header of all kernels: element types with their conversions, and 16-byte accesses. It has no includes, so that NVRTC needs no
// include directory. Arithmetic is done in float; 16-bit types are for storage.
#pragma once

#ifndef FORNAX_EMULATED
/// Dynamic shared memory of a launch as an array of T. The emulated device has its own definition.
#define DYN_SHARED(T, name)                                         \
  extern __shared__ __align__(16) unsigned char dynamic_shared[];   \
  T* name = reinterpret_cast<T*>(dynamic_shared)
#endif

/// IEEE half precision (f16).
struct half16 {
  unsigned short bits;
};

/// bfloat16: the upper 16 bits of a float.
struct bfloat16 {
  unsigned short bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }

__device__ __forceinline__ float to_float(half16 x) {
#ifdef FORNAX_EMULATED
  return emulated_half_to_float(x.bits);
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#endif
}

/// Conversion to T, rounded to nearest even.
template <typename T> __device__ __forceinline__ T from_float(float x);

template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }

template <> __device__ __forceinline__ half16 from_float<half16>(float x) {
  half16 result;
#ifdef FORNAX_EMULATED
  result.bits = emulated_float_to_half(x);
#else
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
#endif
  return result;
}

template <> __device__ __forceinline__ bfloat16 from_float<bfloat16>(float x) {
  bfloat16 result;
#ifdef FORNAX_EMULATED
  const unsigned bits = __float_as_uint(x);
  result.bits = x != x ? 0x7fff : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#else
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
#endif
  return result;
}

/// Vector of 16 bytes: N adjacent elements, read and written at once.
template <typename T> struct __align__(16) Pack {
  static constexpr int N = 16 / sizeof(T);
  T v[N];

  /// Loads the pack at `from`, which is aligned to 16 bytes.
  __device__ __forceinline__ static Pack load(const T* from) { return *reinterpret_cast<const Pack*>(from); }
  /// Stores the pack at `to`, which is aligned to 16 bytes.
  __device__ __forceinline__ void store(T* to) const { *reinterpret_cast<Pack*>(to) = *this; }
};
