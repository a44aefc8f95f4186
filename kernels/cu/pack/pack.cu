// Packing: copies of many tensors in one, in one launch, each cast and scaled. Gradients reach their bucket this way.
#include "arguments.cuh"
#include "channels.cuh"

namespace {

/// Adjacent elements of a thread.
constexpr int kGroup = 8;

template <typename T> __device__ __forceinline__ void load_group(const T* from, float (&to)[kGroup]) {
#pragma unroll
  for (int k = 0; k < kGroup; k += Pack<T>::N) {
    const Pack<T> pack = Pack<T>::load(from + k);
#pragma unroll
    for (int l = 0; l < Pack<T>::N; l++) to[k + l] = to_float(pack.v[l]);
  }
}

template <typename T> __device__ __forceinline__ void store_group(T* to, const float (&from)[kGroup]) {
#pragma unroll
  for (int k = 0; k < kGroup; k += Pack<T>::N) {
    Pack<T> pack;
#pragma unroll
    for (int l = 0; l < Pack<T>::N; l++) pack.v[l] = from_float<T>(from[k + l]);
    pack.store(to + k);
  }
}

template <typename From, typename To> __device__ void copy(const From* __restrict__ from, To* __restrict__ to, int n, float scale) {
  const int groups = aligned(from) && aligned(to) ? n / kGroup : 0;
  for (int i = threadIdx.x; i < groups; i += kThreads) {
    float v[kGroup];
    load_group(from + i * kGroup, v);
#pragma unroll
    for (int k = 0; k < kGroup; k++) v[k] *= scale;
    store_group(to + i * kGroup, v);
  }
  for (int i = groups * kGroup + threadIdx.x; i < n; i += kThreads) to[i] = from_float<To>(scale * to_float(from[i]));
}

template <typename To> __device__ void pack(const PackTable& table, To* to, float scale) {
  int low = 0, high = (int)table.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.parts[middle].chunk <= (int)blockIdx.x) low = middle;
    else high = middle - 1;
  }
  const PackedPart& part = table.parts[low];
  const long long first = (long long)(blockIdx.x - part.chunk) * kPackChunk;
  const int n = (int)min((long long)kPackChunk, part.n - first);
  to += part.offset + first;
  switch (part.format) {
    case kF32: return copy(static_cast<const float*>(part.from) + first, to, n, scale);
    case kF16: return copy(static_cast<const half16*>(part.from) + first, to, n, scale);
    case kBf16: return copy(static_cast<const bfloat16*>(part.from) + first, to, n, scale);
  }
}

}  // namespace

#define PACK(To, name) \
  KERNEL pack_##name(const __grid_constant__ PackTable table, To* to, float scale) { pack(table, to, scale); }

PACK(float, f32)
PACK(half16, f16)
PACK(bfloat16, bf16)
