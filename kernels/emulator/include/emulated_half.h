// Conversions between f32 and IEEE half precision (f16), rounded to nearest even. Includes no standard headers, since kernels include
// this file.
#pragma once

#if defined(__aarch64__)
typedef __fp16 EmulatedHalf;  // g++ 12 has no _Float16 there
#else
typedef _Float16 EmulatedHalf;
#endif

static inline __attribute__((always_inline, unused)) float emulated_half_to_float(unsigned short bits) {
  EmulatedHalf half;
  __builtin_memcpy(&half, &bits, sizeof(half));
  return float(half);
}

static inline __attribute__((always_inline, unused)) unsigned short emulated_float_to_half(float value) {
  const EmulatedHalf half = EmulatedHalf(value);
  unsigned short bits;
  __builtin_memcpy(&bits, &half, sizeof(half));
  return bits;
}
