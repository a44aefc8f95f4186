// Planted violations for scripts/check-kernels: kernels whose last block may read stale sums. The emulated device cannot notice them,
// because its blocks run under the memory order of an x86 CPU.
extern "C" __global__ void no_fence_before_the_ticket(float* sums, unsigned* ticket, float* out) {
  sums[blockIdx.x] = blockIdx.x;
  const bool last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
  __threadfence();
  if (last) *out = *(volatile float*)sums;
}

extern "C" __global__ void no_fence_after_the_ticket(float* sums, unsigned* ticket, float* out) {
  sums[blockIdx.x] = blockIdx.x;
  __threadfence();
  if (atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1) *out = *(volatile float*)sums;
}

extern "C" __global__ void non_coherent_load(float* sums, const float* __restrict__ read, unsigned* ticket, float* __restrict__ out) {
  sums[blockIdx.x] = blockIdx.x;
  __threadfence();
  const bool last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
  __threadfence();
  if (last) *out = read[0];
}
