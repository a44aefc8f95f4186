// Binary elementwise functions with broadcasting, y = f(a, b): rows of `engine/src/scalar/table.rs`. A test of the engine
// compares and writes them.
#include "fuse.cuh"
#include "strided_pair.cuh"

#define FUNCTION(Name, value)                                                              \
  struct Name {                                                                            \
    __device__ __forceinline__ float operator()(float a, float b) const { return value; }  \
  };

namespace {

// From scalar/table.rs:
FUNCTION(Add, a + b)
FUNCTION(Sub, a - b)
FUNCTION(Mul, a * b)
FUNCTION(Div, a / b)
FUNCTION(Maximum, larger(a, b))
FUNCTION(Minimum, smaller(a, b))
FUNCTION(Pow, powf(a, b))
FUNCTION(Heaviside, a > b ? 1.0f : (a == b ? 0.5f : 0.0f))
FUNCTION(Masked, b == 0.0f ? 0.0f : a)
FUNCTION(Equal, a == b ? 1.0f : 0.0f)
// End

/// Loads V elements of a row, or one element repeated V times.
template <int V, typename T> __device__ __forceinline__ void load_or_repeat(const T* from, bool advances, float (&to)[V]) {
  if (advances) return load<V>(from, to);
  const float value = to_float(*from);
#pragma unroll
  for (int k = 0; k < V; k++) to[k] = value;
}

template <typename T, int V, typename F> __device__ void strided_map(const T* a, const T* b, T* y, const StridedPair& pair, const F& f) {
  const GridStride loop;
  for (long long i = loop.first * V; i < pair.n; i += loop.step * V) {
    long long in_a, in_b;
    locate(pair, i, in_a, in_b);
    float v[V], w[V];
    load_or_repeat<V>(a + in_a, pair.a_stride != 0, v);
    load_or_repeat<V>(b + in_b, pair.b_stride != 0, w);
#pragma unroll
    for (int k = 0; k < V; k++) v[k] = f(v[k], w[k]);
    store<V>(y + pair.y_start + i, v);
  }
}

/// Requires strides of 0 or 1 within a row.
template <typename T, typename F> __device__ void broadcast(const T* a, const T* b, T* y, const StridedPair& pair, const F& f) {
  const bool in_packs = pair.packed && aligned(y) && (pair.a_stride == 0 || aligned(a)) && (pair.b_stride == 0 || aligned(b));
  if (in_packs) strided_map<T, Pack<T>::N>(a, b, y, pair, f);
  else strided_map<T, 1>(a, b, y, pair, f);
}

}  // namespace

// Operands of one shape take the dense loop.
#define TYPED(F, f, T, name)                                                                    \
  KERNEL f##_##name(const T* a, const T* b, T* y, long long n) { map_pairs(a, b, y, n, F{}); }  \
  KERNEL f##_broadcast_##name(const T* a, const T* b, T* y, const __grid_constant__ StridedPair pair) { broadcast(a, b, y, pair, F{}); }
#define BINARY(F, f)        \
  TYPED(F, f, float, f32)   \
  TYPED(F, f, half16, f16)  \
  TYPED(F, f, bfloat16, bf16)

// From scalar/table.rs:
BINARY(Add, add)
BINARY(Sub, sub)
BINARY(Mul, mul)
BINARY(Div, div)
BINARY(Maximum, maximum)
BINARY(Minimum, minimum)
BINARY(Pow, pow)
BINARY(Heaviside, heaviside)
BINARY(Masked, masked)
BINARY(Equal, equal)
// End
