// Updates of many f32 parameters in one launch. The table of parameters travels by value, so that a captured launch holds all it needs.
#include "channels.cuh"

constexpr int kParameters = 320;

/// A parameter as an update sees it: addresses of its elements, its gradient and up to two moments.
struct Parameter {
  unsigned long long weights, gradient, moments[2];
  long long n;
  /// The first of the chunks that are its own.
  int chunk;
  float decay;
};

struct Parameters {
  int count, chunk;
  Parameter of[kParameters];
};

namespace {

/// SGD (Sutskever et al., 2013) in PyTorch's form: g += decay p; b = momentum b + g; p -= lr (g + momentum b, or b).
struct Sgd {
  float lr, momentum;
  int nesterov;
  __device__ __forceinline__ void update(float& p, float g, float& b, float&, float decay) const {
    g = g + decay * p;
    b = momentum * b + g;
    p -= lr * (nesterov ? g + momentum * b : b);
  }
};

/// AdamW (Loshchilov and Hutter, 2019): `size` is lr / (1 - beta1^t), `root` sqrt(1 - beta2^t), decay 1 - lr * weight decay.
struct AdamW {
  float size, root, eps, beta1, beta2, rest1, rest2;
  __device__ __forceinline__ void update(float& p, float g, float& m, float& v, float keep) const {
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * g * g;
    p = p * keep - size * m / (sqrtf(v) / root + eps);
  }
};

/// The parameter that a chunk belongs to: the last that begins at or before it.
__device__ __forceinline__ int owner(const Parameters& table, int chunk) {
  int low = 0, high = table.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.of[middle].chunk <= chunk) low = middle;
    else high = middle - 1;
  }
  return low;
}

/// Block blockIdx.x has one chunk of one parameter.
template <int kMoments, typename F> __device__ void update(const Parameters& table, const F& f) {
  constexpr int N = Pack<float>::N;
  const Parameter& parameter = table.of[owner(table, blockIdx.x)];
  float* const p = reinterpret_cast<float*>(parameter.weights);
  const float* const g = reinterpret_cast<const float*>(parameter.gradient);
  float* const a = reinterpret_cast<float*>(parameter.moments[0]);
  float* const b = reinterpret_cast<float*>(parameter.moments[1]);
  const long long first = (long long)(blockIdx.x - parameter.chunk) * table.chunk;
  const long long end = first + table.chunk < parameter.n ? first + table.chunk : parameter.n;
  // Chunks begin with a pack wherever the arrays do.
  const bool packs = aligned(p) && aligned(g) && aligned(a) && aligned(b);
  const long long split = packs ? end - (end - first) % N : first;
  for (long long i = first + threadIdx.x * N; i < split; i += kThreads * N) {
    float w[N], d[N], m[N], v[N] = {};
    load<N>(p + i, w);
    load<N>(g + i, d);
    load<N>(a + i, m);
    if (kMoments > 1) load<N>(b + i, v);
#pragma unroll
    for (int k = 0; k < N; k++) f.update(w[k], d[k], m[k], v[k], parameter.decay);
    store<N>(p + i, w);
    store<N>(a + i, m);
    if (kMoments > 1) store<N>(b + i, v);
  }
  for (long long i = split + threadIdx.x; i < end; i += kThreads) {
    float v = kMoments > 1 ? b[i] : 0;
    f.update(p[i], g[i], a[i], v, parameter.decay);
    if (kMoments > 1) b[i] = v;
  }
}

}  // namespace

KERNEL sgd_f32(Parameters table, float lr, float momentum, int nesterov) { update<1>(table, Sgd{lr, momentum, nesterov}); }

KERNEL adamw_f32(Parameters table, float size, float root, float eps, float beta1, float beta2, float rest1, float rest2) {
  update<2>(table, AdamW{size, root, eps, beta1, beta2, rest1, rest2});
}
