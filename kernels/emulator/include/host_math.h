// Element types and rounding for the cuBLASLt and cuDNN stand-ins.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "emulated_half.h"

namespace host {

enum class ElementType { f32, f16, bf16 };

inline size_t size_of(ElementType type) { return type == ElementType::f32 ? 4 : 2; }

inline float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

inline float f16_to_float(uint16_t bits) { return emulated_half_to_float(bits); }

inline uint16_t float_to_f16(float value) { return emulated_float_to_half(value); }

inline float bf16_to_float(uint16_t bits) { return bits_to_float(uint32_t(bits) << 16); }

// Rounds to nearest, ties to even; NaN stays NaN.
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = float_to_bits(value);
  if (value != value) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Rounds to TF32: the 10 mantissa bits that a tensor core uses of an f32 operand.
inline float round_to_tf32(float value) {
  if (!std::isfinite(value)) return value;
  return bits_to_float((float_to_bits(value) + 0x1000) & ~uint32_t(0x1fff));
}

inline float round_to(ElementType type, float value) {
  switch (type) {
    case ElementType::f16: return f16_to_float(float_to_f16(value));
    case ElementType::bf16: return bf16_to_float(float_to_bf16(value));
    default: return value;
  }
}

inline float load(const void* from, ElementType type, int64_t index) {
  switch (type) {
    case ElementType::f16: return f16_to_float(static_cast<const uint16_t*>(from)[index]);
    case ElementType::bf16: return bf16_to_float(static_cast<const uint16_t*>(from)[index]);
    default: return static_cast<const float*>(from)[index];
  }
}

inline void store(void* to, ElementType type, int64_t index, float value) {
  switch (type) {
    case ElementType::f16: static_cast<uint16_t*>(to)[index] = float_to_f16(value); break;
    case ElementType::bf16: static_cast<uint16_t*>(to)[index] = float_to_bf16(value); break;
    default: static_cast<float*>(to)[index] = value;
  }
}

// `count` elements as f32, rounded to TF32 if `tf32` is set.
inline std::vector<float> load_f32(const void* from, ElementType type, int64_t count, bool tf32) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; i++) values[i] = load(from, type, i);
  if (tf32)
    for (float& value : values) value = round_to_tf32(value);
  return values;
}

}  // namespace host
