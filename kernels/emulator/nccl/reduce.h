// Arithmetic of collective operations: elements are added in the order of the ranks, and each partial sum is rounded to the element type.
#pragma once
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "host_math.h"

namespace nccl {

// Values of ncclDataType_t and ncclRedOp_t.
enum DataType { t_int8, t_uint8, t_int32, t_uint32, t_int64, t_uint64, t_float16, t_float32, t_float64, t_bfloat16, data_types };
enum Reduction { r_sum, r_prod, r_max, r_min, r_avg, reductions };

inline size_t size_of(int type) {
  static const size_t sizes[data_types] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  return sizes[type];
}

// An element type and the type that it is computed in.
template <class Stored, class Computed>
struct Element {
  static Computed load(Stored bits) { return Computed(bits); }
  static Stored store(Computed value) { return Stored(value); }
};
struct Float16 {
  static float load(uint16_t bits) { return host::f16_to_float(bits); }
  static uint16_t store(float value) { return host::float_to_f16(value); }
};
struct Bfloat16 {
  static float load(uint16_t bits) { return host::bf16_to_float(bits); }
  static uint16_t store(float value) { return host::float_to_bf16(value); }
};

template <class Computed>
Computed combine(int reduction, Computed a, Computed b) {
  if (reduction == r_prod) return a * b;
  if constexpr (std::is_floating_point_v<Computed>) {
    if (reduction == r_max) return std::fmax(a, b);
    if (reduction == r_min) return std::fmin(a, b);
  } else {
    if (reduction == r_max) return a < b ? b : a;
    if (reduction == r_min) return b < a ? b : a;
  }
  return a + b;
}

template <class Stored, class Conversion>
std::string reduce_elements(const std::vector<std::string>& inputs, uint64_t count, int reduction) {
  using Computed = decltype(Conversion::load(Stored()));
  constexpr bool is_float = std::is_floating_point_v<Computed>;
  std::string output(count * sizeof(Stored), '\0');
  auto* to = reinterpret_cast<Stored*>(&output[0]);
  // An average of floating-point numbers multiplies each input, as NCCL does; one of integers divides the sum.
  const Computed factor = is_float && reduction == r_avg ? Conversion::load(Conversion::store(Computed(1) / Computed(inputs.size()))) : Computed(1);
  for (uint64_t i = 0; i < count; i++) {
    auto input = [&](size_t rank) {
      Computed value = Conversion::load(reinterpret_cast<const Stored*>(inputs[rank].data())[i]);
      return is_float && reduction == r_avg ? Conversion::load(Conversion::store(value * factor)) : value;
    };
    Computed sum = input(0);
    for (size_t rank = 1; rank < inputs.size(); rank++) sum = Conversion::load(Conversion::store(combine(reduction, sum, input(rank))));
    if (!is_float && reduction == r_avg) sum = sum / Computed(inputs.size());
    to[i] = Conversion::store(sum);
  }
  return output;
}

// Reduces `count` elements of each rank. Integers wrap around.
inline std::string reduce(const std::vector<std::string>& inputs, uint64_t count, int type, int reduction) {
  switch (type) {
    case t_int8: return reduce_elements<int8_t, Element<int8_t, int64_t>>(inputs, count, reduction);
    case t_uint8: return reduce_elements<uint8_t, Element<uint8_t, uint64_t>>(inputs, count, reduction);
    case t_int32: return reduce_elements<int32_t, Element<int32_t, int64_t>>(inputs, count, reduction);
    case t_uint32: return reduce_elements<uint32_t, Element<uint32_t, uint64_t>>(inputs, count, reduction);
    case t_int64: return reduce_elements<int64_t, Element<int64_t, int64_t>>(inputs, count, reduction);
    case t_uint64: return reduce_elements<uint64_t, Element<uint64_t, uint64_t>>(inputs, count, reduction);
    case t_float16: return reduce_elements<uint16_t, Float16>(inputs, count, reduction);
    case t_float32: return reduce_elements<float, Element<float, float>>(inputs, count, reduction);
    case t_float64: return reduce_elements<double, Element<double, double>>(inputs, count, reduction);
    default: return reduce_elements<uint16_t, Bfloat16>(inputs, count, reduction);
  }
}

}  // namespace nccl
