// Correct kernels: their results do not depend on the order of threads, and the checker accepts them.

extern "C" __global__ void scale_f32(const float* x, float* y, float by, long long n) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = by * x[i];
}

extern "C" __global__ void add_to_f32(float* x, float value, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += value;
}

// Sum over a block: within warps by shuffles, then across warps through shared memory.
template <class T>
__device__ T block_sum(T value) {
  __shared__ T sums[32];
  for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_down_sync(~0u, value, offset);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  value = threadIdx.x < blockDim.x / 32 ? sums[threadIdx.x] : T(0);
  if (threadIdx.x < 32)
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_down_sync(~0u, value, offset);
  return value;
}

extern "C" __global__ void __launch_bounds__(256) block_sums_f32(const float* x, float* sums, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float sum = block_sum(i < n ? x[i] : 0.0f);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// The last block to finish sums the partial results of all blocks, in a fixed order.
extern "C" __global__ void __launch_bounds__(256) total_f32(const float* x, float* partial, unsigned* arrived, float* total, int n) {
  __shared__ bool last;
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float sum = block_sum(i < n ? x[i] : 0.0f);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = sum;
    __threadfence();
    last = atomicInc(arrived, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!last) return;
  float all = 0;
  for (int b = threadIdx.x; b < gridDim.x; b += blockDim.x) all += partial[b];
  __syncthreads();
  all = block_sum(all);
  if (threadIdx.x == 0) total[0] = all;
}

// Each block reverses its values through dynamic shared memory.
extern "C" __global__ void reverse_i64(long long* x) {
  DYN_SHARED(long long, values);
  const int i = threadIdx.x;
  values[i] = x[(long long)blockIdx.x * blockDim.x + i];
  __syncthreads();
  x[(long long)blockIdx.x * blockDim.x + i] = values[blockDim.x - 1 - i];
}

// Results of warp votes and of shuffles with half-warp masks, one word per thread.
extern "C" __global__ void votes_i32(int* out) {
  const int lane = threadIdx.x % 32;
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  int word = __popc(__ballot_sync(half, lane % 3 == 0));
  word |= __any_sync(~0u, lane == 31) << 8;
  word |= __all_sync(~0u, lane < 31) << 9;
  word |= __syncthreads_count(threadIdx.x % 2) << 10;
  word |= __shfl_xor_sync(half, lane, 1, 16) << 20;
  __syncwarp();
  out[threadIdx.x] = word;
}

extern "C" __global__ void histogram_i32(const unsigned char* x, int* counts, int n) {
  __shared__ int mine[16];
  if (threadIdx.x < 16) mine[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&mine[x[i] % 16], 1);
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], mine[threadIdx.x]);
}
