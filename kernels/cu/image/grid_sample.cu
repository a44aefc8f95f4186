// Bilinear samples of channels-last images at the points of a grid, and the transpose, the gradient of the images. Derivatives by the
// coordinates are samples with other weights.
#include "arguments.cuh"
#include "channels.cuh"

namespace {

/// The two pixels of an axis around a coordinate; index -1 is outside.
struct Pair {
  int index[2];
  float weight[2];

  __device__ Pair(float g, int n, const GridSampling& s, int derivative) {
    float u = s.align_corners ? (g + 1) / 2 * (n - 1) : ((g + 1) * n - 1) / 2;
    float step = s.align_corners ? (n - 1) / 2.0f : n / 2.0f;
    if (s.border && !(u > 0 && u < n - 1)) {
      u = u > 0 ? n - 1 : 0;
      step = 0;
    }
    index[0] = index[1] = -1;
    weight[0] = weight[1] = 0;
    if (!(u >= -1 && u < n)) return;
    const int first = __float2int_rd(u);
    const float part = u - first;
    weight[0] = derivative ? -step : 1 - part;
    weight[1] = derivative ? step : part;
    index[0] = first;
    index[1] = first + 1 < n ? first + 1 : -1;
  }
};

/// The four pixels around point `p` of the grid.
template <typename G> struct Pixels {
  Pair x, y;

  __device__ Pixels(const G* __restrict__ grid, long long p, const GridSampling& s)
      : x(to_float(grid[2 * p]), s.size[1], s, s.order[0]), y(to_float(grid[2 * p + 1]), s.size[0], s, s.order[1]) {}

  /// Offset of pixel (k, l) in its image and its weight, or false outside.
  __device__ bool at(int k, int l, const GridSampling& s, long long& offset, float& weight) const {
    offset = ((long long)y.index[k] * s.size[1] + x.index[l]) * s.c;
    weight = y.weight[k] * x.weight[l];
    return y.index[k] >= 0 && x.index[l] >= 0;
  }
};

template <typename T, typename G>
__device__ void sample(const T* __restrict__ x, const G* __restrict__ grid, T* __restrict__ y, long long n, const GridSampling& s) {
  const long long points = (long long)s.out[0] * s.out[1], image = (long long)s.size[0] * s.size[1] * s.c;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) {
    const long long p = i / s.c;
    const T* from = x + p / points * image + i % s.c;
    const Pixels<G> pixels(grid, p, s);
    float sum = 0;
    for (int k = 0; k < 2; k++) {
      for (int l = 0; l < 2; l++) {
        long long offset;
        float weight;
        if (pixels.at(k, l, s, offset, weight)) sum = fmaf(weight, to_float(from[offset]), sum);
      }
    }
    y[i] = from_float<T>(sum);
  }
}

/// A thread adds up the samples of one channel of one image, in order.
template <typename T, typename G>
__device__ void scatter(const T* __restrict__ dy, const G* __restrict__ grid, float* __restrict__ dx, long long n, const GridSampling& s) {
  const long long points = (long long)s.out[0] * s.out[1], pixels_of_image = (long long)s.size[0] * s.size[1];
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (long long)gridDim.x * blockDim.x) {
    const long long image = i / s.c, channel = i % s.c;
    float* to = dx + image * pixels_of_image * s.c + channel;
    for (long long pixel = 0; pixel < pixels_of_image; pixel++) to[pixel * s.c] = 0;
    for (long long p = image * points; p < (image + 1) * points; p++) {
      const float d = to_float(dy[p * s.c + channel]);
      const Pixels<G> pixels(grid, p, s);
      for (int k = 0; k < 2; k++) {
        for (int l = 0; l < 2; l++) {
          long long offset;
          float weight;
          if (pixels.at(k, l, s, offset, weight)) to[offset] = fmaf(weight, d, to[offset]);
        }
      }
    }
  }
}

}  // namespace

#define GRID_SAMPLE(T, name, G, grid_name)                                                                                   \
  KERNEL grid_sample_##name##_##grid_name(const T* x, const G* grid, T* y, long long n, GridSampling s) {                       \
    sample<T, G>(x, grid, y, n, s);                                                                                         \
  }                                                                                                                         \
  KERNEL grid_scatter_##name##_##grid_name(const T* dy, const G* grid, float* dx, long long n, GridSampling s) {                \
    scatter<T, G>(dy, grid, dx, n, s);                                                                                      \
  }

GRID_SAMPLE(float, f32, float, f32)
GRID_SAMPLE(half16, f16, half16, f16)
GRID_SAMPLE(half16, f16, float, f32)
GRID_SAMPLE(bfloat16, bf16, bfloat16, bf16)
GRID_SAMPLE(bfloat16, bf16, float, f32)
