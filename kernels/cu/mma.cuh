// Matrix multiplication of half-precision tiles in shared memory by tensor cores (mma.sync, sm_80 and later), and copies to shared memory
// that run while a block computes. The emulated device computes the same products from the same fragments in plain C++.
//
// Fragments are those of mma.m16n8k16: with g = lane / 4 and t = lane % 4, a lane holds rows g and g + 8 and columns 2t and 2t + 1 of the
// 16 x 8 result.
#pragma once
#include "fornax.cuh"

namespace {

/// Adds a 16 x 16 times a 16 x 8 matrix to a 16 x 8 one.
template <typename T> __device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

#ifdef FORNAX_EMULATED

template <typename T> __device__ __forceinline__ float emulated_element(unsigned pair, int which) {
  const T element = {(unsigned short)(which ? pair >> 16 : pair)};
  return to_float(element);
}

/// The lanes exchange their fragments through shared memory; blocks have up to eight warps.
template <typename T> __device__ void emulated_mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  __shared__ unsigned rows[8][32][4], columns[8][32][2];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; i++) rows[warp][lane][i] = a[i];
  for (int i = 0; i < 2; i++) columns[warp][lane][i] = b[i];
  __syncwarp();
  for (int i = 0; i < 4; i++) {
    for (int k = 0; k < 16; k++) {
      const int holder = k / 2 % 4, half = k / 8;
      c[i] += emulated_element<T>(rows[warp][g * 4 + holder][2 * half + i / 2], k % 2) *
              emulated_element<T>(columns[warp][(2 * t + i % 2) * 4 + holder][half], k % 2);
    }
  }
  __syncwarp();
}

template <> __device__ __forceinline__ void mma<half16>(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulated_mma<half16>(c, a, b);
}
template <> __device__ __forceinline__ void mma<bfloat16>(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulated_mma<bfloat16>(c, a, b);
}

__device__ __forceinline__ unsigned emulated_pair(unsigned short low, unsigned short high) { return low | (unsigned)high << 16; }

#else

#define FORNAX_MMA(T, name)                                                                                                       \
  template <> __device__ __forceinline__ void mma<T>(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {             \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "     \
                 "{%0, %1, %2, %3};"                                                                                              \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                             \
  }

FORNAX_MMA(half16, "f16")
FORNAX_MMA(bfloat16, "bf16")
#undef FORNAX_MMA

__device__ __forceinline__ unsigned shared_address(const void* p) {
  unsigned address;
  asm("{ .reg .u64 a; cvta.to.shared.u64 a, %1; cvt.u32.u64 %0, a; }" : "=r"(address) : "l"(p));
  return address;
}

#endif

/// Loads the fragment of the 16 x 16 matrix at `tile`, whose rows are `stride` elements apart; all lanes of a warp call it.
template <typename T> __device__ __forceinline__ void load_rows(const T* tile, int stride, unsigned (&a)[4]) {
  const int lane = threadIdx.x % 32;
#ifdef FORNAX_EMULATED
  for (int i = 0; i < 4; i++) {
    const T* const at = tile + (lane / 4 + i % 2 * 8) * stride + lane % 4 * 2 + i / 2 * 8;
    a[i] = emulated_pair(at[0].bits, at[1].bits);
  }
#else
  const unsigned address = shared_address(tile + lane % 16 * stride + lane / 16 * 8);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(address) : "memory");
#endif
}

/// Loads the fragments of the two 16 x 8 matrices next to each other at `tile`, whose rows are `stride` elements apart.
template <typename T> __device__ __forceinline__ void load_columns(const T* tile, int stride, unsigned (&b)[2][2]) {
  const int lane = threadIdx.x % 32;
#ifdef FORNAX_EMULATED
  for (int i = 0; i < 4; i++) {
    const T* const at = tile + (lane % 4 * 2 + i % 2 * 8) * stride + lane / 4 + i / 2 * 8;
    b[i / 2][i % 2] = emulated_pair(at[0].bits, at[stride].bits);
  }
#else
  const unsigned address = shared_address(tile + lane % 16 * stride + lane / 16 * 8);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0][0]), "=r"(b[0][1]), "=r"(b[1][0]), "=r"(b[1][1]) : "r"(address) : "memory");
#endif
}

/// Starts to copy 16 bytes to shared memory, or to write zeros there; both addresses are multiples of 16 bytes. A thread's copies belong to
/// the group that its next `commit_copies` ends.
__device__ __forceinline__ void copy_to_shared(void* to, const void* from, bool is_valid) {
#ifdef FORNAX_EMULATED
  struct alignas(16) Bytes {
    unsigned words[4];
  };
  *static_cast<Bytes*>(to) = is_valid ? *static_cast<const Bytes*>(from) : Bytes{};
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(is_valid ? 16 : 0) : "memory");
#endif
}

__device__ __forceinline__ void commit_copies() {
#ifndef FORNAX_EMULATED
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits for all but the last N groups of this thread's copies.
template <int N> __device__ __forceinline__ void wait_for_copies() {
#ifndef FORNAX_EMULATED
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

}  // namespace
