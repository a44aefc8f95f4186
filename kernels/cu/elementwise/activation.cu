// Activations, y = f(x), and their gradients, dx = dy f'(x). Every function has a parameter `p`; only leaky ReLU (negative slope) and
// ELU (alpha) read it. Sub-gradients at kinks are PyTorch's.
#include "elementwise.cuh"

#define VALUE __device__ __forceinline__ float value(float x) const
#define DERIVATIVE __device__ __forceinline__ float derivative(float x) const

namespace {

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Comparisons are written so that NaN propagates.
__device__ __forceinline__ float clamp(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

/// 1 strictly inside the bounds, else 0.
__device__ __forceinline__ float inside(float x, float low, float high) { return x > low && x < high ? 1.0f : 0.0f; }

constexpr float kSeluScale = 1.0507009873554805f, kSeluAlpha = 1.6732632423543772f;
constexpr float kInvSqrt2 = 0.7071067811865476f, kInvSqrt2Pi = 0.3989422804014327f, kSqrt2OverPi = 0.7978845608028654f;
constexpr float kCubic = 0.044715f, kQuick = 1.702f;

struct Relu {
  float p;
  VALUE { return x < 0 ? 0 : x; }
  DERIVATIVE { return x > 0 ? 1 : 0; }
};

struct Relu6 {
  float p;
  VALUE { return clamp(x, 0, 6); }
  DERIVATIVE { return inside(x, 0, 6); }
};

struct Silu {
  float p;
  VALUE { return x * sigmoid(x); }
  DERIVATIVE {
    const float s = sigmoid(x);
    return s * (1 + x * (1 - s));
  }
};

struct Gelu {
  float p;
  VALUE { return 0.5f * x * (1 + erff(x * kInvSqrt2)); }
  DERIVATIVE { return 0.5f * (1 + erff(x * kInvSqrt2)) + x * kInvSqrt2Pi * expf(-0.5f * x * x); }
};

struct GeluTanh {
  float p;
  __device__ __forceinline__ static float tanh_of(float x) { return tanhf(kSqrt2OverPi * (x + kCubic * x * x * x)); }
  VALUE { return 0.5f * x * (1 + tanh_of(x)); }
  DERIVATIVE {
    const float t = tanh_of(x);
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * kSqrt2OverPi * (1 + 3 * kCubic * x * x);
  }
};

struct QuickGelu {
  float p;
  VALUE { return x * sigmoid(kQuick * x); }
  DERIVATIVE {
    const float s = sigmoid(kQuick * x);
    return s * (1 + kQuick * x * (1 - s));
  }
};

struct HardSwish {
  float p;
  VALUE { return x * clamp(x + 3, 0, 6) * (1.0f / 6); }
  DERIVATIVE {
    const float low = x > -3 ? x * (1.0f / 3) + 0.5f : 0;
    return x < 3 ? low : 1;
  }
};

struct HardSigmoid {
  float p;
  VALUE { return clamp(x + 3, 0, 6) * (1.0f / 6); }
  DERIVATIVE { return inside(x, -3, 3) * (1.0f / 6); }
};

struct Sigmoid {
  float p;
  VALUE { return sigmoid(x); }
  DERIVATIVE {
    const float s = sigmoid(x);
    return s * (1 - s);
  }
};

// With e = e^min(x, 20): tanh(log(1 + e)) = n / (n + 2), n = e (e + 2); it is 1 beyond.
struct Mish {
  float p;
  VALUE {
    const float e = expf(x > 20 ? 20 : x), n = e * (e + 2);
    return x * n / (n + 2);
  }
  DERIVATIVE {
    const float e = expf(x > 20 ? 20 : x), n = e * (e + 2), t = n / (n + 2);
    return t + x * (1 - t * t) * (e / (1 + e));
  }
};

struct Tanh {
  float p;
  VALUE { return tanhf(x); }
  DERIVATIVE {
    const float t = tanhf(x);
    return 1 - t * t;
  }
};

struct LeakyRelu {
  float p;
  VALUE { return x > 0 ? x : x * p; }
  DERIVATIVE { return x > 0 ? 1 : p; }
};

struct Elu {
  float p;
  VALUE { return x > 0 ? x : p * expm1f(x); }
  DERIVATIVE { return x > 0 ? 1 : p * expf(x); }
};

struct Softplus {
  float p;
  VALUE { return log1pf(expf(-fabsf(x))) + (x < 0 ? 0 : x); }
  DERIVATIVE { return sigmoid(x); }
};

struct Selu {
  float p;
  VALUE { return kSeluScale * (x > 0 ? x : kSeluAlpha * expm1f(x)); }
  DERIVATIVE { return kSeluScale * (x > 0 ? 1 : kSeluAlpha * expf(x)); }
};

struct HardTanh {
  float p;
  VALUE { return clamp(x, -1, 1); }
  DERIVATIVE { return inside(x, -1, 1); }
};

struct Exp {
  float p;
  VALUE { return expf(x); }
  DERIVATIVE { return expf(x); }
};

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
