// CUDA C++ for the emulated device: the subset of the language and its built-in functions that kernels use, for g++.
// Included before every source that the NVRTC stand-in compiles. As in NVRTC, no standard header is included.
// `__global__` is not defined here: the stand-in finds kernels by it and removes it.
#pragma once
#include "device_abi.h"

#define FORNAX_EMULATED 1
#define __CUDACC_RTC__ 1
#define __CUDA_ARCH__ 900
#define __device__
#define __host__
#define __constant__ static
#define __grid_constant__
#define __shared__ static __thread  // a host thread runs one block at a time
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) alignas(n)
#define __launch_bounds__(threads, ...) __fornax_bounds__(threads)
#define DYN_SHARED(T, name) T* name = reinterpret_cast<T*>(fornax_device::registers.dynamic_shared)

#define threadIdx (fornax_device::registers.thread)
#define blockIdx (fornax_device::registers.block)
#define blockDim (fornax_device::registers.block_dim)
#define gridDim (fornax_device::registers.grid_dim)
static constexpr int warpSize = 32;

typedef __SIZE_TYPE__ size_t;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;

#include "emulated_vectors.h"

#include "emulated_math.h"

#include "emulated_half.h"

#include "emulated_atomics.h"

// ---- barriers and warp operations; each one passes its caller's source line
#define FORNAX_SOURCE_LOCATION const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define FORNAX_INLINE static inline __attribute__((always_inline, unused))

FORNAX_INLINE void __syncthreads(FORNAX_SOURCE_LOCATION) {
  fornax_device::block_barrier(0, fornax_device::Barrier::Plain, file, line);
}
FORNAX_INLINE int __syncthreads_count(int predicate, FORNAX_SOURCE_LOCATION) {
  return fornax_device::block_barrier(predicate, fornax_device::Barrier::Count, file, line);
}
FORNAX_INLINE int __syncthreads_and(int predicate, FORNAX_SOURCE_LOCATION) {
  return fornax_device::block_barrier(predicate, fornax_device::Barrier::And, file, line);
}
FORNAX_INLINE int __syncthreads_or(int predicate, FORNAX_SOURCE_LOCATION) {
  return fornax_device::block_barrier(predicate, fornax_device::Barrier::Or, file, line);
}
FORNAX_INLINE void __syncwarp(unsigned mask = ~0u, FORNAX_SOURCE_LOCATION) { fornax_device::warp_barrier(mask, file, line); }
FORNAX_INLINE unsigned __activemask() { return fornax_device::active_lanes(); }
FORNAX_INLINE unsigned __ballot_sync(unsigned mask, int predicate, FORNAX_SOURCE_LOCATION) {
  return fornax_device::ballot(mask, predicate, file, line);
}
FORNAX_INLINE int __any_sync(unsigned mask, int predicate, FORNAX_SOURCE_LOCATION) {
  return fornax_device::ballot(mask, predicate, file, line) != 0;
}
FORNAX_INLINE int __all_sync(unsigned mask, int predicate, FORNAX_SOURCE_LOCATION) {
  return fornax_device::ballot(mask, !predicate, file, line) == 0;
}
FORNAX_INLINE void __threadfence() { fornax_device::thread_fence(); }
FORNAX_INLINE void __threadfence_block() {}

#define FORNAX_SHUFFLE(NAME, KIND, ARGUMENT)                                                                    \
  template <class T>                                                                                            \
  static inline T NAME(unsigned mask, T value, ARGUMENT argument, int width = 32, FORNAX_SOURCE_LOCATION) {     \
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");                                           \
    unsigned long long bits = 0;                                                                                \
    __builtin_memcpy(&bits, &value, sizeof(T));                                                                 \
    bits = fornax_device::shuffle(mask, bits, fornax_device::Shuffle::KIND, int(argument), width, file, line);  \
    __builtin_memcpy(&value, &bits, sizeof(T));                                                                 \
    return value;                                                                                               \
  }
FORNAX_SHUFFLE(__shfl_sync, Index, int)
FORNAX_SHUFFLE(__shfl_up_sync, Up, unsigned)
FORNAX_SHUFFLE(__shfl_down_sync, Down, unsigned)
FORNAX_SHUFFLE(__shfl_xor_sync, Xor, int)

template <class T>
static inline T __ldg(const T* pointer) {
  return *pointer;
}

// ---- registration of kernels, for the table that the stand-in appends to a source
namespace fornax_device {

template <class F>
struct Signature;

template <class... A>
struct Signature<void (*)(A...)> {
  static constexpr unsigned sizes[] = {unsigned(sizeof(A))..., 0u};
  static constexpr unsigned alignments[] = {unsigned(alignof(A))..., 0u};

  template <unsigned... I>
  struct Sequence {};
  template <unsigned N, unsigned... I>
  struct Make : Make<N - 1, N - 1, I...> {};
  template <unsigned... I>
  struct Make<0, I...> {
    using Type = Sequence<I...>;
  };

  // Not instrumented: arguments are in host memory.
  template <void (*kernel)(A...), unsigned... I>
  __attribute__((no_sanitize("thread"))) static void call(void** arguments, Sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
  }
  template <void (*kernel)(A...)>
  __attribute__((no_sanitize("thread"))) static void call(void** arguments) {
    call<kernel>(arguments, typename Make<sizeof...(A)>::Type{});
  }
};

template <auto kernel>
constexpr Kernel make_kernel(const char* name, unsigned max_threads) {
  using S = Signature<decltype(kernel)>;
  return {name, &S::template call<kernel>, S::sizes, S::alignments, sizeof(S::sizes) / sizeof(unsigned) - 1, max_threads};
}

}  // namespace fornax_device
