// Convolution of channels-last images as an implicit GEMM: a matmul whose operands are gathered on the fly, for any geometry and
// groups. It is the reference for cuDNN's results and the fallback for shapes that cuDNN does not support.
//
// A block computes a tile of kTile x kTile results, each thread kEach x kEach of them; both operands pass through shared memory kDepth
// terms at a time. The weight gradient's sum over pixels is divided into splits (split-K), merged in order by a second kernel.
#include "arguments.cuh"
#include "fornax.cuh"

namespace {

/// Input channels of a group.
__device__ __forceinline__ int group_in(const Conv& s) { return s.c_in / s.groups; }
/// Output channels of a group.
__device__ __forceinline__ int group_out(const Conv& s) { return s.c_out / s.groups; }
/// Positions of the convolution kernel.
__device__ __forceinline__ int taps(const Conv& s) { return s.kernel[0] * s.kernel[1]; }

constexpr int kTile = 64, kDepth = 16, kEach = 4, kSide = kTile / kEach, kBlock = kSide * kSide;

/// Image, row and column of the pixel with index `number` in a batch.
struct Pixel {
  int image, y, x;
  __device__ Pixel(long long number, const int (&size)[2])
      : image((int)(number / size[1] / size[0])), y((int)(number / size[1] % size[0])), x((int)(number % size[1])) {}
};

/// Input element at kernel position `tap` of an output pixel; 0 outside the image.
template <typename T>
__device__ __forceinline__ float input_at(const Conv& s, const T* x, const Pixel& out, int tap, int channel) {
  const int iy = out.y * s.stride[0] - s.padding[0] + tap / s.kernel[1] * s.dilation[0];
  const int ix = out.x * s.stride[1] - s.padding[1] + tap % s.kernel[1] * s.dilation[1];
  if (iy < 0 || iy >= s.input[0] || ix < 0 || ix >= s.input[1]) return 0;
  return to_float(x[(((long long)out.image * s.input[0] + iy) * s.input[1] + ix) * s.c_in + channel]);
}

/// Output gradient that kernel position `tap` propagates to an input pixel; 0 if no output pixel reads the input there.
template <typename T>
__device__ __forceinline__ float output_at(const Conv& s, const T* dy, const Pixel& in, int tap, int channel) {
  const int top = in.y + s.padding[0] - tap / s.kernel[1] * s.dilation[0];
  const int left = in.x + s.padding[1] - tap % s.kernel[1] * s.dilation[1];
  if (top < 0 || left < 0 || top % s.stride[0] != 0 || left % s.stride[1] != 0) return 0;
  const int oy = top / s.stride[0], ox = left / s.stride[1];
  if (oy >= s.output[0] || ox >= s.output[1]) return 0;
  return to_float(dy[(((long long)in.image * s.output[0] + oy) * s.output[1] + ox) * s.c_out + channel]);
}

// The three GEMMs, C[m, n] = sum over k of a(m, k) * b(k, n).

/// y: output pixels by output channels, over taps and input channels.
template <typename T> struct Forward {
  const T *x, *weight, *bias;
  T* y;
  Conv s;
  int group;
  __device__ long long rows() const { return (long long)s.n * s.output[0] * s.output[1]; }
  __device__ int columns() const { return group_out(s); }
  __device__ long long depth() const { return (long long)taps(s) * group_in(s); }
  __device__ float a(long long m, long long k) const {
    return input_at(s, x, Pixel(m, s.output), (int)(k / group_in(s)), group * group_in(s) + (int)(k % group_in(s)));
  }
  __device__ float b(long long k, int n) const { return to_float(weight[(group * group_out(s) + n) * depth() + k]); }
  __device__ void put(long long m, int n, float value) const {
    const int channel = group * group_out(s) + n;
    if (bias) value += to_float(bias[channel]);
    y[m * s.c_out + channel] = from_float<T>(value);
  }
};

/// dx: input pixels by input channels, over taps and output channels.
template <typename T> struct DataGradient {
  const T *dy, *weight;
  T* dx;
  Conv s;
  int group;
  __device__ long long rows() const { return (long long)s.n * s.input[0] * s.input[1]; }
  __device__ int columns() const { return group_in(s); }
  __device__ long long depth() const { return (long long)taps(s) * group_out(s); }
  __device__ float a(long long m, long long k) const {
    return output_at(s, dy, Pixel(m, s.input), (int)(k / group_out(s)), group * group_out(s) + (int)(k % group_out(s)));
  }
  __device__ float b(long long k, int n) const {
    const long long tap = k / group_out(s), channel = group * group_out(s) + k % group_out(s);
    return to_float(weight[(channel * taps(s) + tap) * group_in(s) + n]);
  }
  __device__ void put(long long m, int n, float value) const {
    dx[m * s.c_in + group * group_in(s) + n] = from_float<T>(value);
  }
};

/// One split of dw: output channels by taps and input channels, over the output pixels [first, last).
template <typename T> struct WeightGradient {
  const T *x, *dy;
  float* partial;
  Conv s;
  int group;
  long long first, last;
  __device__ long long rows() const { return group_out(s); }
  __device__ int columns() const { return taps(s) * group_in(s); }
  __device__ long long depth() const { return last - first; }
  __device__ float a(long long m, long long k) const {
    return to_float(dy[(first + k) * s.c_out + group * group_out(s) + m]);
  }
  __device__ float b(long long k, int n) const {
    return input_at(s, x, Pixel(first + k, s.output), n / group_in(s), group * group_in(s) + n % group_in(s));
  }
  __device__ void put(long long m, int n, float value) const {
    partial[(group * group_out(s) + m) * columns() + n] = value;
  }
};

/// Computes this block's tile of the result: rows by blockIdx.x, columns by blockIdx.y.
template <typename Gemm> __device__ void gemm(const Gemm& p) {
  __shared__ float a[kDepth][kTile + 1], b[kDepth][kTile + 1];
  const long long m0 = (long long)blockIdx.x * kTile;
  const int n0 = blockIdx.y * kTile, thread = threadIdx.x, mi = thread / kSide, ni = thread % kSide;
  const long long rows = p.rows(), depth = p.depth();
  const int columns = p.columns();
  float sums[kEach][kEach] = {};
  for (long long k0 = 0; k0 < depth; k0 += kDepth) {
    for (int i = thread; i < kTile * kDepth; i += kBlock) {
      const int side = i / kDepth, k = i % kDepth;
      a[k][side] = m0 + side < rows && k0 + k < depth ? p.a(m0 + side, k0 + k) : 0;
      b[k][side] = n0 + side < columns && k0 + k < depth ? p.b(k0 + k, n0 + side) : 0;
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < kDepth; k++) {
      float left[kEach], right[kEach];
#pragma unroll
      for (int i = 0; i < kEach; i++) {
        left[i] = a[k][mi + i * kSide];
        right[i] = b[k][ni + i * kSide];
      }
#pragma unroll
      for (int i = 0; i < kEach; i++) {
#pragma unroll
        for (int j = 0; j < kEach; j++) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kEach; i++) {
#pragma unroll
    for (int j = 0; j < kEach; j++) {
      const long long m = m0 + mi + i * kSide;
      const int n = n0 + ni + j * kSide;
      if (m < rows && n < columns) p.put(m, n, sums[i][j]);
    }
  }
}

/// Weight gradient over split `blockIdx.z / groups` of the pixels, for group `blockIdx.z % groups`.
template <typename T> __device__ void weight_gradient(const T* x, const T* dy, float* partial, long long split_pixels, const Conv& s) {
  const long long split = blockIdx.z / s.groups, pixels = (long long)s.n * s.output[0] * s.output[1];
  float* out = partial + split * s.c_out * taps(s) * group_in(s);
  gemm(WeightGradient<T>{x, dy, out, s, (int)(blockIdx.z % s.groups), split * split_pixels, min(pixels, (split + 1) * split_pixels)});
}

}  // namespace

#define IMPLICIT_GEMM(T, name)                                                                                    \
  extern "C" __global__ void __launch_bounds__(kBlock)                                                            \
      implicit_gemm_fwd_##name(const T* x, const T* weight, const T* bias, T* y, Conv s) {                        \
    gemm(Forward<T>{x, weight, bias, y, s, (int)blockIdx.z});                                                     \
  }                                                                                                               \
  extern "C" __global__ void __launch_bounds__(kBlock)                                                            \
      implicit_gemm_data_bwd_##name(const T* dy, const T* weight, T* dx, Conv s) {                                \
    gemm(DataGradient<T>{dy, weight, dx, s, (int)blockIdx.z});                                                    \
  }                                                                                                               \
  extern "C" __global__ void __launch_bounds__(kBlock)                                                            \
      implicit_gemm_weight_bwd_##name(const T* x, const T* dy, float* partial, long long split_pixels, Conv s) {  \
    weight_gradient(x, dy, partial, split_pixels, s);                                                             \
  }                                                                                                               \
  extern "C" __global__ void __launch_bounds__(kBlock)                                                            \
      implicit_gemm_finalize_bwd_##name(const float* partial, int splits, long long len, T* dw) {                 \
    const long long i = (long long)blockIdx.x * kBlock + threadIdx.x;                                             \
    if (i >= len) return;                                                                                         \
    float sum = 0;                                                                                                \
    for (int split = 0; split < splits; split++) sum += partial[split * len + i];                                 \
    dw[i] = from_float<T>(sum);                                                                                   \
  }

IMPLICIT_GEMM(float, f32)
IMPLICIT_GEMM(half16, f16)
IMPLICIT_GEMM(bfloat16, bf16)
