// Sums over 64 products in f32, then in double: closer to the true value than any device.
#include "multiply.h"
#include "runtime.h"
#include <algorithm>

namespace blas {
namespace {

constexpr int64_t run = 64;

// op(A) as [k, m], so that the innermost loop runs along a column of D.
std::vector<float> columns_of(const Product& p, const char* a) {
  std::vector<float> values(p.k * p.m);
  for (int64_t k = 0; k < p.k; k++)
    for (int64_t i = 0; i < p.m; i++) {
      const float value = host::load(a, p.type, p.transpose_a ? k + i * p.lda : i + k * p.lda);
      values[k * p.m + i] = p.tf32 ? host::round_to_tf32(value) : value;
    }
  return values;
}

float element_of_b(const Product& p, const char* b, int64_t k, int64_t j) {
  const float value = host::load(b, p.type, p.transpose_b ? j + k * p.ldb : k + j * p.ldb);
  return p.tf32 ? host::round_to_tf32(value) : value;
}

float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::relu: return x > 0 ? x : 0;
    case Activation::gelu_tanh:
      return 0.5f * x * (1 + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
    default: return x;
  }
}

float gelu_tanh_slope(float x) {
  const float t = std::tanh(0.7978845608f * (x + 0.044715f * x * x * x));
  return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * 0.7978845608f * (1 + 3 * 0.044715f * x * x);
}

// An element of D on its way past what lies beside it: kept for the slope, or multiplied by it.
float pass(const Product& p, char* beside, int64_t i, int64_t j, float value) {
  const int64_t at = i + j * p.ld_beside;
  uint8_t* byte = reinterpret_cast<uint8_t*>(beside) + at / 8;
  const uint8_t bit = uint8_t(1 << at % 8);
  switch (p.beside) {
    case Beside::mask_out: *byte = value > 0 ? *byte | bit : *byte & ~bit; break;
    case Beside::input_out: host::store(beside, p.type, at, value); break;
    case Beside::mask_in: return *byte & bit ? value : 0;
    case Beside::input_in: return value * gelu_tanh_slope(host::load(beside, p.type, at));
    default: break;
  }
  return value;
}

void sum_over_n(const Product& p, const char* d, char* vector) {
  for (int64_t i = 0; i < p.m; i++) {
    double total = 0;
    for (int64_t j = 0; j < p.n; j++) total += host::load(d, p.type, i + j * p.ldd);
    host::store(vector, p.type, i, float(total));
  }
}

void sum_over_k(const Product& p, const char* a, const char* b, char* vector) {
  const bool of_a = p.sum == Sum::a;
  for (int64_t i = 0; i < (of_a ? p.m : p.n); i++) {
    double total = 0;
    for (int64_t k = 0; k < p.k; k++) {
      const bool along = of_a ? p.transpose_a : !p.transpose_b;
      const int64_t leading = of_a ? p.lda : p.ldb;
      total += host::load(of_a ? a : b, p.type, along ? k + i * leading : i + k * leading);
    }
    host::store(vector, p.type, i, float(total));
  }
}

}  // namespace

void multiply(const Product& p, const char* a, const char* b, const char* c, char* d, char* vector,
              char* beside) {
  const int64_t element = int64_t(host::size_of(p.type));
  if (p.sum == Sum::a || p.sum == Sum::b) sum_over_k(p, a, b, vector);
  for (int64_t at = 0; at < p.batch; at++, a += element * p.step_a, b += element * p.step_b,
               c += element * p.step_c, d += element * p.step_d) {
    const std::vector<float> lines = columns_of(p, a);
    fornax::parallel(p.n, [&](int64_t j) {
      std::vector<float> part(p.m);
      std::vector<double> total(p.m, 0);
      for (int64_t first = 0; first < p.k; first += run) {
        part.assign(p.m, 0);
        float* sum = part.data();
        for (int64_t k = first; k < std::min(p.k, first + run); k++) {
          const float value = element_of_b(p, b, k, j);
          const float* line = &lines[k * p.m];
          for (int64_t i = 0; i < p.m; i++) sum[i] += value * line[i];
        }
        for (int64_t i = 0; i < p.m; i++) total[i] += part[i];
      }
      for (int64_t i = 0; i < p.m; i++) {
        float value = p.alpha * float(total[i]);
        if (p.beta != 0) value += p.beta * host::load(c, p.type, i + j * p.ldc);
        if (p.bias) value += host::load(vector, p.type, i);
        value = pass(p, beside, i, j, value);
        host::store(d, p.type, i + j * p.ldd, activate(p.activation, value));
      }
    });
  }
  // Not of a batch: D has been left behind by one step.
  if (p.sum == Sum::d) sum_over_n(p, d - element * p.step_d, vector);
}

}  // namespace blas
