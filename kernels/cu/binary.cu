// Functions of two elements over arrays that broadcast against each other, y = f(a, b).
#include "walk.cuh"

#define FUNCTION(Name, value)                                                              \
  struct Name {                                                                            \
    __device__ __forceinline__ float operator()(float a, float b) const { return value; }  \
  };

namespace {

FUNCTION(Add, a + b)
FUNCTION(Sub, a - b)
FUNCTION(Mul, a * b)
FUNCTION(Div, a / b)
// NaN if either is.
FUNCTION(Maximum, a != a || a > b ? a : b)
FUNCTION(Minimum, a != a || a < b ? a : b)
FUNCTION(Pow, powf(a, b))
// The share of the gradient of max(a, b) that goes to a: half at a tie.
FUNCTION(GreaterShare, a > b ? 1.0f : a == b ? 0.5f : 0.0f)
// What a mask of ones and zeros keeps, NaN or not.
FUNCTION(Keep, b == 0 ? 0.0f : a)
FUNCTION(Equal, a == b ? 1.0f : 0.0f)

/// V elements of a row, or one that is repeated.
template <int V, typename T> __device__ __forceinline__ void load_or_repeat(const T* from, bool advances, float (&to)[V]) {
  if (advances) return load<V>(from, to);
  const float value = to_float(*from);
#pragma unroll
  for (int k = 0; k < V; k++) to[k] = value;
}

template <typename T, int V, typename F> __device__ void walk_pairs(const T* a, const T* b, T* y, const Walk& walk, const F& f) {
  const Stride loop;
  for (long long i = loop.first * V; i < walk.n; i += loop.step * V) {
    long long in_a, in_b;
    walk.locate(i, in_a, in_b);
    float v[V], w[V];
    load_or_repeat<V>(a + in_a, walk.a_step != 0, v);
    load_or_repeat<V>(b + in_b, walk.b_step != 0, w);
#pragma unroll
    for (int k = 0; k < V; k++) v[k] = f(v[k], w[k]);
    store<V>(y + walk.y_start + i, v);
  }
}

/// Steps within a row are 0 or 1.
template <typename T, typename F> __device__ void broadcast(const T* a, const T* b, T* y, const Walk& walk, const F& f) {
  const bool in_packs = walk.packed && aligned(y) && (walk.a_step == 0 || aligned(a)) && (walk.b_step == 0 || aligned(b));
  if (in_packs) walk_pairs<T, Pack<T>::N>(a, b, y, walk, f);
  else walk_pairs<T, 1>(a, b, y, walk, f);
}

}  // namespace

// Arrays of one shape take the plain loop.
#define TYPED(F, f, T, name)                                                                    \
  KERNEL f##_##name(const T* a, const T* b, T* y, long long n) { map_pairs(a, b, y, n, F{}); }  \
  KERNEL f##_broadcast_##name(const T* a, const T* b, T* y, Walk walk) { broadcast(a, b, y, walk, F{}); }
#define BINARY(F, f)        \
  TYPED(F, f, float, f32)   \
  TYPED(F, f, half16, f16)  \
  TYPED(F, f, bfloat16, bf16)

BINARY(Add, add)
BINARY(Sub, sub)
BINARY(Mul, mul)
BINARY(Div, div)
BINARY(Maximum, maximum)
BINARY(Minimum, minimum)
BINARY(Pow, pow)
BINARY(GreaterShare, greater_share)
BINARY(Keep, keep)
BINARY(Equal, equal)
