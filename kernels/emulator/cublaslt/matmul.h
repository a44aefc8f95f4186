// Matmul on the host with cuBLASLt's epilogues; matrices are column-major.
#pragma once
#include "host_math.h"

namespace cublaslt {

enum class Activation { none, relu, gelu_tanh };
enum class BiasGradient { none, a, b, d };
// Epilogue aux buffer: the ReLU mask in bits or the GELU input, written by the forward epilogue and read by the backward one.
enum class Aux { none, relu_mask_out, gelu_input_out, relu_mask_in, gelu_input_in };

// D[m, n] = alpha op(A)[m, k] op(B)[k, n] + beta C, `batch` times; leading dimensions and batch strides in elements.
struct Gemm {
  host::ElementType type;
  int64_t m, n, k, batch;
  bool transpose_a, transpose_b, tf32;
  int64_t lda, ldb, ldc, ldd, stride_a, stride_b, stride_c, stride_d;
  float alpha, beta;
  bool bias;  // added to each column: m elements
  Activation activation;
  BiasGradient bias_gradient;  // sum of op(A) or op(B) over k, or of D over n
  Aux aux;
  int64_t ld_aux;  // in elements; in bits for a mask
};

// C is read only if beta is not zero. `bias` is the bias or receives its gradient.
void compute_matmul(const Gemm& g, const char* a, const char* b, const char* c, char* d, char* bias, char* aux);

}  // namespace blas
