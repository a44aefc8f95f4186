// Activations, y = f(x), and their gradients, dx = dy f'(x). Every function has a parameter `p`; only leaky ReLU (negative slope) and
// ELU (alpha) read it. The functions are rows of `engine/src/scalar/table.rs`: a test of the engine compares and writes them.
#include "fuse.cuh"

#define VALUE __device__ __forceinline__ float value(float x) const
#define DERIVATIVE __device__ __forceinline__ float derivative(float x) const

namespace {

// From scalar/table.rs:
struct Relu {
  float p;
  VALUE { return relu(x); }
  DERIVATIVE { return x > 0.0f ? 1.0f : 0.0f; }
};

struct Relu6 {
  float p;
  VALUE {
    const float v4 = 0.0f > x ? 0.0f : x;
    return v4 > 6.0f ? 6.0f : v4;
  }
  DERIVATIVE { return 6.0f > x ? (x > 0.0f ? 1.0f : 0.0f) : 0.0f; }
};

struct Silu {
  float p;
  VALUE { return x * sigmoid(x); }
  DERIVATIVE {
    const float v1 = sigmoid(x);
    return v1 * (1.0f + (x * (1.0f - v1)));
  }
};

struct Gelu {
  float p;
  VALUE { return (x * 0.5f) * (1.0f + erff(x * 0.70710677f)); }
  DERIVATIVE { return (0.5f * (1.0f + erff(x * 0.70710677f))) + ((x * 0.3989423f) * expf(x * (x * -0.5f))); }
};

struct GeluTanh {
  float p;
  VALUE { return (x * 0.5f) * (tanhf(0.7978846f * (x + (x * (x * (x * 0.044715f))))) + 1.0f); }
  DERIVATIVE {
    const float v8 = tanhf(0.7978846f * (x + (x * (x * (x * 0.044715f)))));
    return (0.5f * (v8 + 1.0f)) + ((0.7978846f * (1.0f + (x * (x * 0.134145f)))) * ((x * 0.5f) * (1.0f - (v8 * v8))));
  }
};

struct QuickGelu {
  float p;
  VALUE { return x * sigmoid(x * 1.702f); }
  DERIVATIVE {
    const float v2 = x * 1.702f;
    const float v3 = sigmoid(v2);
    return v3 * (1.0f + (v2 * (1.0f - v3)));
  }
};

struct HardSwish {
  float p;
  VALUE {
    const float v2 = x + 3.0f;
    const float v6 = 0.0f > v2 ? 0.0f : v2;
    return (x * (v6 > 6.0f ? 6.0f : v6)) * 0.16666667f;
  }
  DERIVATIVE { return 3.0f > x ? (x > -3.0f ? ((x * 0.33333334f) + 0.5f) : 0.0f) : 1.0f; }
};

struct HardSigmoid {
  float p;
  VALUE {
    const float v2 = x + 3.0f;
    const float v6 = 0.0f > v2 ? 0.0f : v2;
    return (v6 > 6.0f ? 6.0f : v6) * 0.16666667f;
  }
  DERIVATIVE { return (3.0f > x ? (x > -3.0f ? 1.0f : 0.0f) : 0.0f) * 0.16666667f; }
};

struct Sigmoid {
  float p;
  VALUE { return sigmoid(x); }
  DERIVATIVE {
    const float v1 = sigmoid(x);
    return v1 * (1.0f - v1);
  }
};

struct Mish {
  float p;
  VALUE {
    const float v4 = expf(x > 20.0f ? 20.0f : x);
    const float v7 = v4 * (v4 + 2.0f);
    return (x * v7) / (2.0f + v7);
  }
  DERIVATIVE {
    const float v4 = expf(x > 20.0f ? 20.0f : x);
    const float v7 = v4 * (v4 + 2.0f);
    const float v9 = v7 / (2.0f + v7);
    return v9 + ((x * (1.0f - (v9 * v9))) * (v4 / (v4 + 1.0f)));
  }
};

struct Tanh {
  float p;
  VALUE { return tanhf(x); }
  DERIVATIVE {
    const float v1 = tanhf(x);
    return 1.0f - (v1 * v1);
  }
};

struct LeakyRelu {
  float p;
  VALUE { return x > 0.0f ? x : (x * p); }
  DERIVATIVE { return x > 0.0f ? 1.0f : p; }
};

struct Elu {
  float p;
  VALUE { return x > 0.0f ? x : (p * expm1f(x)); }
  DERIVATIVE { return x > 0.0f ? 1.0f : (p * expf(x)); }
};

struct Softplus {
  float p;
  VALUE { return softplus(x); }
  DERIVATIVE { return sigmoid(x); }
};

struct Selu {
  float p;
  VALUE { return 1.050701f * (x > 0.0f ? x : (1.6732632f * expm1f(x))); }
  DERIVATIVE { return 1.050701f * (x > 0.0f ? 1.0f : (1.6732632f * expf(x))); }
};

struct HardTanh {
  float p;
  VALUE {
    const float v4 = -1.0f > x ? -1.0f : x;
    return v4 > 1.0f ? 1.0f : v4;
  }
  DERIVATIVE { return 1.0f > x ? (x > -1.0f ? 1.0f : 0.0f) : 0.0f; }
};

struct Exp {
  float p;
  VALUE { return expf(x); }
  DERIVATIVE { return expf(x); }
};

// End

template <typename F> struct Value {
  F f;
  __device__ __forceinline__ float operator()(float x) const { return f.value(x); }
};

template <typename F> struct Derivative {
  F f;
  __device__ __forceinline__ float operator()(float x, float dy) const { return dy * f.derivative(x); }
};

}  // namespace

#define TYPED(F, f, T, name)                                                                       \
  KERNEL f##_fwd_##name(const T* x, T* y, long long n, float p) { map(x, y, n, Value<F>{F{p}}); }  \
  KERNEL f##_bwd_##name(const T* x, const T* dy, T* dx, long long n, float p) { map_pairs(x, dy, dx, n, Derivative<F>{F{p}}); }
#define KERNELS(F, f)       \
  TYPED(F, f, float, f32)   \
  TYPED(F, f, half16, f16)  \
  TYPED(F, f, bfloat16, bf16)

// From scalar/table.rs:
KERNELS(Relu, relu)
KERNELS(Relu6, relu6)
KERNELS(Silu, silu)
KERNELS(Gelu, gelu)
KERNELS(GeluTanh, gelu_tanh)
KERNELS(QuickGelu, quick_gelu)
KERNELS(HardSwish, hard_swish)
KERNELS(HardSigmoid, hard_sigmoid)
KERNELS(Sigmoid, sigmoid)
KERNELS(Mish, mish)
KERNELS(Tanh, tanh)
KERNELS(LeakyRelu, leaky_relu)
KERNELS(Elu, elu)
KERNELS(Softplus, softplus)
KERNELS(Selu, selu)
KERNELS(HardTanh, hard_tanh)
KERNELS(Exp, exp)
// End
