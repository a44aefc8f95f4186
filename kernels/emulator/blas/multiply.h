// A matrix product on the host, column-major as the library thinks.
#pragma once
#include "host_math.h"

namespace blas {

enum class Activation { none, relu, gelu_tanh };
enum class Sum { none, a, b, d };
// What lies beside D: where ReLU was open, in bits, or what GELU saw; written by the activation or read for its slope.
enum class Beside { none, mask_out, input_out, mask_in, input_in };

// D[m, n] = op(A)[m, k] op(B)[k, n], repeated `batch` times; leading dimensions and steps in elements.
struct Product {
  host::Type type;
  int64_t m, n, k, batch;
  bool transpose_a, transpose_b, tf32;
  int64_t lda, ldb, ldc, ldd, step_a, step_b, step_c, step_d;
  float alpha, beta;
  bool bias;  // added to each column: m elements
  Activation activation;
  Sum sum;  // of op(A) or op(B) over k, or of D over n, into the vector
  Beside beside;
  int64_t ld_beside;  // elements, bits of a mask
};

// C is read only where beta is not zero; the vector is the bias, or receives the sums.
void multiply(const Product& p, const char* a, const char* b, const char* c, char* d, char* vector,
              char* beside);

}  // namespace blas
