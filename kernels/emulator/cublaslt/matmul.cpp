// Sums of 64 terms in f32, accumulated in double: more accurate than any GPU.
#include "matmul.h"
#include "runtime.h"
#include <algorithm>

namespace cublaslt {
namespace {

constexpr int64_t partial_length = 64;

// op(A) as [k, m], so that the innermost loop runs over a column of D.
std::vector<float> load_a(const Gemm& g, const char* a) {
  std::vector<float> values(g.k * g.m);
  for (int64_t k = 0; k < g.k; k++)
    for (int64_t i = 0; i < g.m; i++) {
      const float value = host::load(a, g.type, g.transpose_a ? k + i * g.lda : i + k * g.lda);
      values[k * g.m + i] = g.tf32 ? host::round_to_tf32(value) : value;
    }
  return values;
}

float load_b(const Gemm& g, const char* b, int64_t k, int64_t j) {
  const float value = host::load(b, g.type, g.transpose_b ? j + k * g.ldb : k + j * g.ldb);
  return g.tf32 ? host::round_to_tf32(value) : value;
}

float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::relu: return x > 0 ? x : 0;
    case Activation::gelu_tanh:
      return 0.5f * x * (1 + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
    default: return x;
  }
}

float gelu_tanh_derivative(float x) {
  const float t = std::tanh(0.7978845608f * (x + 0.044715f * x * x * x));
  return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * 0.7978845608f * (1 + 3 * 0.044715f * x * x);
}

// Applies the aux buffer to an element of D: stores the derivative's operand, or multiplies by the derivative.
float apply_aux(const Gemm& g, char* aux, int64_t i, int64_t j, float value) {
  const int64_t at = i + j * g.ld_aux;
  uint8_t* byte = reinterpret_cast<uint8_t*>(aux) + at / 8;
  const uint8_t bit = uint8_t(1 << at % 8);
  switch (g.aux) {
    case Aux::relu_mask_out: *byte = value > 0 ? *byte | bit : *byte & ~bit; break;
    case Aux::gelu_input_out: host::store(aux, g.type, at, value); break;
    case Aux::relu_mask_in: return *byte & bit ? value : 0;
    case Aux::gelu_input_in: return value * gelu_tanh_derivative(host::load(aux, g.type, at));
    default: break;
  }
  return value;
}

void bias_gradient_over_n(const Gemm& g, const char* d, char* bias) {
  for (int64_t i = 0; i < g.m; i++) {
    double total = 0;
    for (int64_t j = 0; j < g.n; j++) total += host::load(d, g.type, i + j * g.ldd);
    host::store(bias, g.type, i, float(total));
  }
}

void bias_gradient_over_k(const Gemm& g, const char* a, const char* b, char* bias) {
  const bool of_a = g.bias_gradient == BiasGradient::a;
  for (int64_t i = 0; i < (of_a ? g.m : g.n); i++) {
    double total = 0;
    for (int64_t k = 0; k < g.k; k++) {
      const bool is_contiguous = of_a ? g.transpose_a : !g.transpose_b;
      const int64_t leading_dimension = of_a ? g.lda : g.ldb;
      const int64_t at = is_contiguous ? k + i * leading_dimension : i + k * leading_dimension;
      total += host::load(of_a ? a : b, g.type, at);
    }
    host::store(bias, g.type, i, float(total));
  }
}

}  // namespace

void compute_matmul(const Gemm& g, const char* a, const char* b, const char* c, char* d, char* bias, char* aux) {
  const int64_t element = int64_t(host::size_of(g.type));
  if (g.bias_gradient == BiasGradient::a || g.bias_gradient == BiasGradient::b) bias_gradient_over_k(g, a, b, bias);
  for (int64_t at = 0; at < g.batch; at++, a += element * g.stride_a, b += element * g.stride_b,
               c += element * g.stride_c, d += element * g.stride_d) {
    const std::vector<float> columns = load_a(g, a);
    fornax::parallel(g.n, [&](int64_t j) {
      std::vector<float> partial(g.m);
      std::vector<double> total(g.m, 0);
      for (int64_t first = 0; first < g.k; first += partial_length) {
        partial.assign(g.m, 0);
        float* sum = partial.data();
        for (int64_t k = first; k < std::min(g.k, first + partial_length); k++) {
          const float value = load_b(g, b, k, j);
          const float* column = &columns[k * g.m];
          for (int64_t i = 0; i < g.m; i++) sum[i] += value * column[i];
        }
        for (int64_t i = 0; i < g.m; i++) total[i] += partial[i];
      }
      for (int64_t i = 0; i < g.m; i++) {
        float value = g.alpha * float(total[i]);
        if (g.beta != 0) value += g.beta * host::load(c, g.type, i + j * g.ldc);
        if (g.bias) value += host::load(bias, g.type, i);
        value = apply_aux(g, aux, i, j, value);
        host::store(d, g.type, i + j * g.ldd, activate(g.activation, value));
      }
    });
  }
  // The batch size is 1 here, and `d` was advanced by one stride.
  if (g.bias_gradient == BiasGradient::d) bias_gradient_over_n(g, d - element * g.stride_d, bias);
}

}  // namespace blas
