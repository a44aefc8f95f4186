// Augmentation of u8 or f32 training images on the device in one pass: mixup or CutMix with a partner image, normalization, random
// erasing. Channels last.
//
// `changes` has one row per result: index of the partner; lam as the bits of a float; the CutMix box (top, bottom, left, right, where bottom
// and right are exclusive); the sample index of the random numbers; then the boxes to erase, four numbers each.
#include "arguments.cuh"
#include "elementwise.cuh"
#include "philox.cuh"

/// Columns of `changes`.
enum { kPartner, kLam, kTop, kBottom, kLeft, kRight, kSample, kErase };
static_assert(kErase == kChangeHeader, "the boxes to erase follow the other columns");

namespace {

__device__ __forceinline__ bool inside(const long long* box, int y, int x) {
  return y >= box[0] && y < box[1] && x >= box[2] && x < box[3];
}

/// Standard normal sample number `index` of an image's random stream (Box-Muller); each takes two words.
__device__ __forceinline__ float normal(const Preparation& p, long long sample, long long index) {
  const PhiloxStream rng = {{p.key[0], p.key[1]}, {p.epoch, (unsigned)sample, (unsigned)(sample >> 32)}};
  unsigned words[4];
  philox(rng, (unsigned)(index / 2), words);
  // Neither an index at run time nor the range reduction of cos, which would need local memory.
  const bool second = index % 2 != 0;
  const unsigned a = second ? words[2] : words[0], b = second ? words[3] : words[1];
  const double u = ((double)a + 1.0) * (1.0 / 4294967296.0), v = (double)b * (1.0 / 4294967296.0);
  return (float)(sqrt(-2.0 * log(u)) * cospi(2.0 * v));
}

__device__ __forceinline__ float by_channel(const float (&values)[kInlineChannels], int c) {
  float value = values[0];
#pragma unroll
  for (int k = 1; k < kInlineChannels; k++) value = c == k ? values[k] : value;
  return value;
}

/// Alignment of N adjacent values for one access.
template <int N, typename S> constexpr int kGroupAlign = N * sizeof(S) < 16 ? N * sizeof(S) : 16;

/// N adjacent values of an image.
template <int N, typename S> struct alignas(kGroupAlign<N, S>) Group {
  S v[N];
};

/// Computes elements i .. i + N of an image of fewer than 2^31 elements; `change`, its row of `changes`, is in shared memory. Two 32-bit
/// divisions find the first element's position; the others follow it.
template <int N, typename S, typename T>
__device__ __forceinline__ void prepare_group(const S* own, const S* partner, const long long* change, float lam, T* y, long long i, long long size, int w, int c, const Preparation& p) {
  const Group<N, S> mine = *reinterpret_cast<const Group<N, S>*>(own + i);
  Group<N, S> other = mine;
  // The partner is read only if it contributes to the image.
  const bool cuts = change[kTop] < change[kBottom];
  if (lam != 1 || cuts) other = *reinterpret_cast<const Group<N, S>*>(partner + i);
  float out[N];
  const unsigned pixel = (unsigned)i / c;
  int channel = (unsigned)i - pixel * c, row = pixel / w, column = pixel - row * w;
#pragma unroll
  for (int k = 0; k < N; k++) {
    const bool theirs = cuts && inside(change + kTop, row, column);
    float value = theirs ? other.v[k] : mine.v[k];
    if (lam != 1) value = lam * value + (1 - lam) * other.v[k];
    if (p.rounded) value = rintf(value);
    value = (value / p.max_value - by_channel(p.mean, channel)) / by_channel(p.std, channel);
    for (int b = 0; b < p.boxes; b++) {
      if (!inside(change + kErase + 4 * b, row, column)) continue;
      const long long index = p.erase_mode == kRand ? channel : i + k;
      value = p.erase_mode == kConst ? 0 : normal(p, change[kSample], b * size + index);
    }
    out[k] = value;
    if (++channel == c) {
      channel = 0;
      if (++column == w) {
        column = 0;
        row++;
      }
    }
  }
  store<N>(y + i, out);
}

template <typename S, typename T>
__device__ void prepare(const S* __restrict__ images, const long long* __restrict__ changes, T* __restrict__ y, int h, int w, int c,
                        const Preparation& p) {
  // blockIdx.y is the image, so that all threads of a block share one row of changes.
  __shared__ long long change[kErase + 4 * kMaxBoxes];
  const int width = kErase + 4 * p.boxes, image = blockIdx.y;
  if (threadIdx.x < width) change[threadIdx.x] = changes[(long long)image * width + threadIdx.x];
  __syncthreads();
  const long long size = (long long)h * w * c;
  const S* const own = images + image * size;
  const S* const partner = images + change[kPartner] * size;
  const float lam = __int_as_float((int)change[kLam]);
  constexpr int N = Pack<T>::N;
  const bool packs = size % N == 0 && aligned(y) && reinterpret_cast<unsigned long long>(images) % kGroupAlign<N, S> == 0;
  const long long first = (long long)blockIdx.x * kThreads + threadIdx.x, step = (long long)gridDim.x * kThreads;
  T* const to = y + image * size;
  if (packs) {
    for (long long i = first * N; i < size; i += step * N) prepare_group<N>(own, partner, change, lam, to, i, size, w, c, p);
  } else {
    for (long long i = first; i < size; i += step) prepare_group<1>(own, partner, change, lam, to, i, size, w, c, p);
  }
}

}  // namespace

#define PREPARE(S, from, T, to)                                                                                                    \
  KERNEL prepare_##from##_##to(const S* x, const long long* changes, T* y, int h, int w, int c,                                    \
                               const __grid_constant__ Preparation p) {                                                            \
    prepare<S, T>(x, changes, y, h, w, c, p);                                                                                      \
  }

PREPARE(unsigned char, u8, float, f32)
PREPARE(unsigned char, u8, half16, f16)
PREPARE(unsigned char, u8, bfloat16, bf16)
PREPARE(float, f32, float, f32)
PREPARE(float, f32, half16, f16)
PREPARE(float, f32, bfloat16, bf16)
