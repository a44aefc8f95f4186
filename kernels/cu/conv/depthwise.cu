// Depthwise convolution of channels-last images: output channel o is input channel o / multiplier convolved with its own kernel.
//
// The specialized kernels (3, 5 and 7 square, undilated, multiplier 1) process strips of a few output pixels, so that an input pixel is
// loaded once for all outputs of a strip, and a weight once per strip; the `generic` kernels handle all other shapes. The data gradient
// at stride 1 is a forward pass over dy with the kernel flipped. Weights are staged in shared memory as floats, by tap and channel.
// Weight gradients are summed over chunks of the pixels, then over the chunks in order.
#include "arguments.cuh"
#include "channels.cuh"

namespace {

constexpr int kStrip = 4;

/// Mapping of a block's threads to the channels of tile `blockIdx.y` and to rows of work. Its width in channels does not depend on V.
template <typename T, int V> struct ThreadMap {
  int lanes, lane, row, rows, at, multiplier;
  __device__ explicit ThreadMap(const Depthwise& s) {
    lanes = V == 1 ? s.lanes * Pack<T>::N : s.lanes;
    lane = threadIdx.x % lanes;
    row = threadIdx.x / lanes;
    rows = kThreads / lanes;
    at = (blockIdx.y * lanes + lane) * V;
    multiplier = s.c_out / s.c_in;
  }
};

/// Shared-memory index of channel `channel` of tap `tap`: channels in groups of four, so that a warp reads without bank conflicts.
template <int V> __device__ __forceinline__ int slot(int tap, int channel, int lanes) {
  if constexpr (V == 1) return tap * lanes + channel;
  const int lane = channel / V, k = channel % V;
  return ((tap * (V / 4) + k / 4) * lanes + lane) * 4 + k % 4;
}

/// Copies the weights [channels, taps] of channels first .. first + channels to shared memory.
template <typename T, int V>
__device__ void stage_weights(const T* __restrict__ weight, float* shared, int first, int channels, int lanes, const Depthwise& s) {
  const int taps = s.kernel[0] * s.kernel[1];
  for (int i = threadIdx.x; i < channels * taps; i += kThreads) {
    const int channel = i / taps, tap = i - channel * taps;
    const float w = first + channel < s.c_out ? to_float(weight[(long long)first * taps + i]) : 0;
    shared[slot<V>(s.flipped ? taps - 1 - tap : tap, channel, lanes)] = w;
  }
  __syncthreads();
}

template <int V> __device__ __forceinline__ void load_weights(const float* shared, int tap, int lane, int lanes, float (&to)[V]) {
  if constexpr (V == 1) {
    to[0] = shared[tap * lanes + lane];
  } else {
#pragma unroll
    for (int q = 0; q < V / 4; q++) {
      const float4 four = reinterpret_cast<const float4*>(shared)[(tap * (V / 4) + q) * lanes + lane];
      to[4 * q] = four.x;
      to[4 * q + 1] = four.y;
      to[4 * q + 2] = four.z;
      to[4 * q + 3] = four.w;
    }
  }
}

/// Calls use(i, v) for the pixels first + i of a line, i < N, that lie inside its `width`, in order, with V channels each. B pixels are
/// loaded before the first of them is used, without a test, which would be a branch between loads: the pixel at the edge is loaded for one
/// outside, and not used.
template <int N, int B, int V, typename T, typename Use>
__device__ __forceinline__ void for_line(const T* line, int first, int width, int c, const Use& use) {
#pragma unroll
  for (int group = 0; group < N; group += B) {
    Stored<T, V> loaded[B];
#pragma unroll
    for (int i = group; i < group + B && i < N; i++) {
      loaded[i - group] = Stored<T, V>::load(line + (long long)min(max(first + i, 0), width - 1) * c);
    }
#pragma unroll
    for (int i = group; i < group + B && i < N; i++) {
      if (first + i < 0 || first + i >= width) continue;
      float v[V];
      loaded[i - group].widen(v);
      use(i, v);
    }
  }
}

/// Forward pass of a square kernel K at stride S, in strips of kStrip output pixels.
template <typename T, int V, int K, int S>
__device__ void strips_forward(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias, T* __restrict__ y, Depthwise s) {
  // Input pixels of a line, and the number of them loaded at once, as registers allow.
  constexpr int kPixels = (kStrip - 1) * S + K, kAtOnce = K == 3 ? 6 / S : K == 5 ? 2 : 1;
  DYN_SHARED(float, shared);
  const ThreadMap<T, V> map(s);
  const int c = s.c_out, at = map.at;
  stage_weights<T, V>(weight, shared, at - map.lane * V, map.lanes * V, map.lanes, s);
  if (at >= c) return;
  float offset[V] = {};
  if (bias) load<V>(bias + at, offset);
  const int per_row = (s.output[1] + kStrip - 1) / kStrip, strips = s.n * s.output[0] * per_row;
  for (int strip = blockIdx.x * map.rows + map.row; strip < strips; strip += gridDim.x * map.rows) {
    const int row = strip / per_row, ox = (strip - row * per_row) * kStrip, image = row / s.output[0];
    const int iy = (row - image * s.output[0]) * S - s.padding[0], ix = ox * S - s.padding[1];
    float sums[kStrip][V];
#pragma unroll
    for (int o = 0; o < kStrip; o++) {
#pragma unroll
      for (int k = 0; k < V; k++) sums[o][k] = offset[k];
    }
#pragma unroll 1
    for (int ky = 0; ky < K; ky++) {
      if (iy + ky < 0 || iy + ky >= s.input[0]) continue;
      const T* line = x + ((long long)image * s.input[0] + iy + ky) * s.input[1] * c + at;
      float w[K][V];
#pragma unroll
      for (int kx = 0; kx < K; kx++) load_weights<V>(shared, ky * K + kx, map.lane, map.lanes, w[kx]);
      for_line<kPixels, kAtOnce, V>(line, ix, s.input[1], c, [&](int i, const float (&v)[V]) {
#pragma unroll
        for (int o = 0; o < kStrip; o++) {
          if (i - o * S < 0 || i - o * S >= K) continue;
#pragma unroll
          for (int k = 0; k < V; k++) sums[o][k] = fmaf(v[k], w[i - o * S][k], sums[o][k]);
        }
      });
    }
#pragma unroll
    for (int o = 0; o < kStrip; o++) {
      if (ox + o < s.output[1]) store<V>(y + ((long long)row * s.output[1] + ox + o) * c + at, sums[o]);
    }
  }
}

/// Forward pass of any kernel, one output pixel at a time.
template <typename T, int V>
__device__ void generic_forward(const T* __restrict__ x, const T* __restrict__ weight, const T* __restrict__ bias, T* __restrict__ y, Depthwise s) {
  DYN_SHARED(float, shared);
  const ThreadMap<T, V> map(s);
  const int at = map.at, from = at / map.multiplier;
  stage_weights<T, V>(weight, shared, at - map.lane * V, map.lanes * V, map.lanes, s);
  if (at >= s.c_out) return;
  const int pixels = s.n * s.output[0] * s.output[1];
  for (int pixel = blockIdx.x * map.rows + map.row; pixel < pixels; pixel += gridDim.x * map.rows) {
    const int row = pixel / s.output[1], ox = pixel - row * s.output[1], image = row / s.output[0], oy = row - image * s.output[0];
    float sum[V] = {};
    if (bias) load<V>(bias + at, sum);
    for (int ky = 0; ky < s.kernel[0]; ky++) {
      const int iy = oy * s.stride[0] - s.padding[0] + ky * s.dilation[0];
      if (iy < 0 || iy >= s.input[0]) continue;
      for (int kx = 0; kx < s.kernel[1]; kx++) {
        const int ix = ox * s.stride[1] - s.padding[1] + kx * s.dilation[1];
        if (ix < 0 || ix >= s.input[1]) continue;
        float v[V], w[V];
        load<V>(x + (((long long)image * s.input[0] + iy) * s.input[1] + ix) * s.c_in + from, v);
        load_weights<V>(shared, ky * s.kernel[1] + kx, map.lane, map.lanes, w);
#pragma unroll
        for (int k = 0; k < V; k++) sum[k] = fmaf(v[k], w[k], sum[k]);
      }
    }
    store<V>(y + (long long)pixel * s.c_out + at, sum);
  }
}

/// Data gradient, one input pixel at a time: gathers from the windows that cover it and all output channels of its input channel.
template <typename T, int V>
__device__ void generic_data_gradient(const T* __restrict__ dy, const T* __restrict__ weight, T* __restrict__ dx, Depthwise s) {
  DYN_SHARED(float, shared);
  const ThreadMap<T, V> map(s);
  const int at = map.at, m = map.multiplier;
  stage_weights<T, V>(weight, shared, (at - map.lane * V) * m, map.lanes * V * m, map.lanes * m, s);
  if (at >= s.c_in) return;
  const int pixels = s.n * s.input[0] * s.input[1];
  for (int pixel = blockIdx.x * map.rows + map.row; pixel < pixels; pixel += gridDim.x * map.rows) {
    const int row = pixel / s.input[1], ix = pixel - row * s.input[1], image = row / s.input[0], iy = row - image * s.input[0];
    float sum[V] = {};
    for (int ky = 0; ky < s.kernel[0]; ky++) {
      const int top = iy + s.padding[0] - ky * s.dilation[0], oy = top / s.stride[0];
      if (top < 0 || oy * s.stride[0] != top || oy >= s.output[0]) continue;
      for (int kx = 0; kx < s.kernel[1]; kx++) {
        const int left = ix + s.padding[1] - kx * s.dilation[1], ox = left / s.stride[1];
        if (left < 0 || ox * s.stride[1] != left || ox >= s.output[1]) continue;
        for (int o = 0; o < m; o++) {
          float g[V], w[V];
          load<V>(dy + (((long long)image * s.output[0] + oy) * s.output[1] + ox) * s.c_out + at * m + o, g);
          load_weights<V>(shared, ky * s.kernel[1] + kx, map.lane * m + o, map.lanes * m, w);
#pragma unroll
          for (int k = 0; k < V; k++) sum[k] = fmaf(g[k], w[k], sum[k]);
        }
      }
    }
    store<V>(dx + (long long)pixel * s.c_in + at, sum);
  }
}

/// partial[chunk][taps][c]: weight gradient of a square kernel K at stride S over the strips of chunk blockIdx.x. A block computes
/// ROWS rows of the kernel, starting at blockIdx.z * ROWS.
template <typename T, int V, int K, int S, int ROWS>
__device__ void strips_weight_gradient(const T* __restrict__ x, const T* __restrict__ dy, float* __restrict__ partial, int chunk, Depthwise s) {
  constexpr int kOutputs = ROWS > 1 ? 2 : 4, kPixels = (kOutputs - 1) * S + K, kAtOnce = 2;
  const ThreadMap<T, V> map(s);
  const int c = s.c_out, at = map.at, top = blockIdx.z * ROWS;
  const int per_row = (s.output[1] + kOutputs - 1) / kOutputs, strips = s.n * s.output[0] * per_row;
  const int last = min(strips, (int)(blockIdx.x + 1) * chunk);
  float sums[ROWS * K * V] = {};
  if (at < c) {
    for (int strip = blockIdx.x * chunk + map.row; strip < last; strip += map.rows) {
      const int row = strip / per_row, ox = (strip - row * per_row) * kOutputs, image = row / s.output[0];
      const int iy = (row - image * s.output[0]) * S - s.padding[0] + top, ix = ox * S - s.padding[1];
      float g[kOutputs][V] = {};
#pragma unroll
      for (int o = 0; o < kOutputs; o++) {
        if (ox + o < s.output[1]) load<V>(dy + ((long long)row * s.output[1] + ox + o) * c + at, g[o]);
      }
#pragma unroll
      for (int ky = 0; ky < ROWS; ky++) {
        if (iy + ky < 0 || iy + ky >= s.input[0]) continue;
        const T* line = x + ((long long)image * s.input[0] + iy + ky) * s.input[1] * c + at;
        for_line<kPixels, kAtOnce, V>(line, ix, s.input[1], c, [&](int i, const float (&v)[V]) {
#pragma unroll
          for (int o = 0; o < kOutputs; o++) {
            if (i - o * S < 0 || i - o * S >= K) continue;
#pragma unroll
            for (int k = 0; k < V; k++) {
              float& sum = sums[(ky * K + i - o * S) * V + k];
              sum = fmaf(v[k], g[o][k], sum);
            }
          }
        });
      }
    }
  }
  sum_over_rows(sums, map.lanes);
  if (at >= c || map.row > 0) return;
#pragma unroll
  for (int tap = 0; tap < ROWS * K; tap++) {
    float* out = partial + ((long long)blockIdx.x * K * K + top * K + tap) * c + at;
#pragma unroll
    for (int k = 0; k < V; k++) out[k] = sums[tap * V + k];
  }
}

/// partial[chunk][taps][c]: weight gradient for tap blockIdx.z of any kernel, over the output pixels of chunk blockIdx.x.
template <typename T, int V>
__device__ void generic_weight_gradient(const T* __restrict__ x, const T* __restrict__ dy, float* __restrict__ partial, int chunk, Depthwise s) {
  const ThreadMap<T, V> map(s);
  const int at = map.at, from = at / map.multiplier, tap = blockIdx.z, ky = tap / s.kernel[1], kx = tap - ky * s.kernel[1];
  const int last = min(s.n * s.output[0] * s.output[1], (int)(blockIdx.x + 1) * chunk);
  float sum[V] = {};
  if (at < s.c_out) {
    for (int pixel = blockIdx.x * chunk + map.row; pixel < last; pixel += map.rows) {
      const int row = pixel / s.output[1], ox = pixel - row * s.output[1], image = row / s.output[0], oy = row - image * s.output[0];
      const int iy = oy * s.stride[0] - s.padding[0] + ky * s.dilation[0];
      const int ix = ox * s.stride[1] - s.padding[1] + kx * s.dilation[1];
      if (iy < 0 || iy >= s.input[0] || ix < 0 || ix >= s.input[1]) continue;
      float v[V], g[V];
      load<V>(x + (((long long)image * s.input[0] + iy) * s.input[1] + ix) * s.c_in + from, v);
      load<V>(dy + (long long)pixel * s.c_out + at, g);
#pragma unroll
      for (int k = 0; k < V; k++) sum[k] = fmaf(v[k], g[k], sum[k]);
    }
  }
  sum_over_rows(sum, map.lanes);
  if (at >= s.c_out || map.row > 0) return;
#pragma unroll
  for (int k = 0; k < V; k++) partial[((long long)blockIdx.x * gridDim.z + tap) * s.c_out + at + k] = sum[k];
}

/// dw[channel][tap] = sum over chunks of partial[chunk][tap][channel]
template <typename T> __device__ void finalize(const float* __restrict__ partial, int chunks, int taps, int c, T* __restrict__ dw) {
  const int i = blockIdx.x * kMergeLanes + threadIdx.x % kMergeLanes, len = taps * c;
  double sum = 0;
  for (int chunk = threadIdx.x / kMergeLanes; chunk < chunks && i < len; chunk += kThreads / kMergeLanes) {
    sum += partial[(long long)chunk * len + i];
  }
  sum = merge(sum);
  if (threadIdx.x < kMergeLanes && i < len) dw[(long long)(i % c) * taps + i / c] = from_float<T>((float)sum);
}

}  // namespace

/// True when packs of channels of both tensors can be read at once.
#define IN_PACKS(T, a, b) (s.c_in == s.c_out && in_packs<T>(s.c_in, aligned(a) && aligned(b)))

#define STRIPS(T, name, K, S)                                                                                                  \
  KERNEL depthwise_k##K##s##S##_fwd_##name(const T* x, const T* weight, const T* bias, T* y, Depthwise s) {                    \
    if (IN_PACKS(T, x, y) && aligned(bias)) strips_forward<T, Pack<T>::N, K, S>(x, weight, bias, y, s);                        \
    else strips_forward<T, 1, K, S>(x, weight, bias, y, s);                                                                    \
  }                                                                                                                            \
  KERNEL depthwise_k##K##s##S##_weight_bwd_##name(const T* x, const T* dy, float* partial, int chunk, Depthwise s) {           \
    constexpr int kRows = K == 3 ? 3 : 1;                                                                                      \
    if (IN_PACKS(T, x, dy)) strips_weight_gradient<T, Pack<T>::N, K, S, kRows>(x, dy, partial, chunk, s);                      \
    else strips_weight_gradient<T, 1, K, S, kRows>(x, dy, partial, chunk, s);                                                  \
  }

#define DEPTHWISE(T, name)                                                                                       \
  STRIPS(T, name, 3, 1)                                                                                          \
  STRIPS(T, name, 3, 2)                                                                                          \
  STRIPS(T, name, 5, 1)                                                                                          \
  STRIPS(T, name, 5, 2)                                                                                          \
  STRIPS(T, name, 7, 1)                                                                                          \
  KERNEL depthwise_generic_fwd_##name(const T* x, const T* weight, const T* bias, T* y, Depthwise s) {           \
    if (IN_PACKS(T, x, y) && aligned(bias)) generic_forward<T, Pack<T>::N>(x, weight, bias, y, s);               \
    else generic_forward<T, 1>(x, weight, bias, y, s);                                                           \
  }                                                                                                              \
  KERNEL depthwise_generic_data_bwd_##name(const T* dy, const T* weight, T* dx, Depthwise s) {                   \
    if (IN_PACKS(T, dy, dx)) generic_data_gradient<T, Pack<T>::N>(dy, weight, dx, s);                            \
    else generic_data_gradient<T, 1>(dy, weight, dx, s);                                                         \
  }                                                                                                              \
  KERNEL depthwise_generic_weight_bwd_##name(const T* x, const T* dy, float* partial, int chunk, Depthwise s) {  \
    if (IN_PACKS(T, x, dy)) generic_weight_gradient<T, Pack<T>::N>(x, dy, partial, chunk, s);                    \
    else generic_weight_gradient<T, 1>(x, dy, partial, chunk, s);                                                \
  }                                                                                                              \
  KERNEL depthwise_finalize_bwd_##name(const float* partial, int chunks, int taps, int c, T* dw) {               \
    finalize<T>(partial, chunks, taps, c, dw);                                                                   \
  }

DEPTHWISE(float, f32)
DEPTHWISE(half16, f16)
DEPTHWISE(bfloat16, bf16)
