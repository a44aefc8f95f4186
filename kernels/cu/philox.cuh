// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011); the same words as `random::RngStream` on the CPU.
#pragma once
#include "arguments.cuh"

/// Four random words for counter block `block` of a stream (ten rounds).
__device__ __forceinline__ void philox(const PhiloxStream& rng, unsigned block, unsigned (&words)[4]) {
  unsigned c0 = block, c1 = rng.counter[0], c2 = rng.counter[1], c3 = rng.counter[2];
  unsigned k0 = rng.key[0], k1 = rng.key[1];
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}
