// Unary elementwise functions with up to two scalar parameters, y = f(x, p, q): rows of `engine/src/scalar/table.rs`. A test of the
// engine compares and writes them.
#include "fuse.cuh"

#define FUNCTION(Name, value)                                                     \
  struct Name {                                                                   \
    float p, q;                                                                   \
    __device__ __forceinline__ float operator()(float x) const { return value; }  \
  };

namespace {

// From scalar/table.rs:
FUNCTION(Affine, q + (x * p))
FUNCTION(MulScalar, x * p)
FUNCTION(Abs, fabsf(x))
FUNCTION(Sign, x > 0.0f ? 1.0f : (0.0f > x ? -1.0f : 0.0f))
FUNCTION(Sqrt, sqrtf(x))
FUNCTION(Ln, logf(x))
FUNCTION(Square, x * x)
FUNCTION(PowScalar, powf(x, p))
FUNCTION(Clamp, p > x ? p : (x > q ? q : x))
FUNCTION(Within, p > x ? 0.0f : (x > q ? 0.0f : (x == x ? 1.0f : 0.0f)))
FUNCTION(Greater, x > p ? 1.0f : 0.0f)
// End

}  // namespace

#define TYPED(F, f, T, name)  \
  KERNEL f##_##name(const T* x, T* y, long long n, float p, float q) { map(x, y, n, F{p, q}); }
#define UNARY(F, f)         \
  TYPED(F, f, float, f32)   \
  TYPED(F, f, half16, f16)  \
  TYPED(F, f, bfloat16, bf16)

// From scalar/table.rs:
UNARY(Affine, affine)
UNARY(MulScalar, mul_scalar)
UNARY(Abs, abs)
UNARY(Sign, sign)
UNARY(Sqrt, sqrt)
UNARY(Ln, ln)
UNARY(Square, square)
UNARY(PowScalar, pow_scalar)
UNARY(Clamp, clamp)
UNARY(Within, within)
UNARY(Greater, greater)
// End
