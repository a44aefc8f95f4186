// One bug per kernel. The checker must report the marked line.

extern "C" __global__ void race_shared(const float* x, float* y) {
  __shared__ float values[64];
  values[63 - threadIdx.x] = 0.0f;
  __syncthreads();
  values[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = values[63 - threadIdx.x];  // BUG race_shared
}

extern "C" __global__ void race_global(float* y) {
  y[threadIdx.x / 2] = 1.0f;  // BUG race_global
}

// No fence between the partial sums and the atomic that signals them.
extern "C" __global__ void race_blocks(float* partial, unsigned* arrived, float* total) {
  partial[blockIdx.x] = 1.0f;
  if (atomicInc(arrived, gridDim.x - 1) != gridDim.x - 1) return;
  float sum = 0;
  for (int b = 0; b < gridDim.x; b++) sum += partial[b];  // BUG race_blocks
  total[0] = sum;
}

extern "C" __global__ void race_bytes(unsigned char* y) {
  y[threadIdx.x] = 1;
  __syncwarp();
  y[(threadIdx.x + 32) % 64] = 2;  // BUG race_bytes
}

extern "C" __global__ void divergence(float* y) {
  if (threadIdx.x < 32) {
    y[threadIdx.x] = 1.0f;
    __syncthreads();
  } else {
    y[threadIdx.x] = 2.0f;
    __syncthreads();  // BUG divergence
  }
}

extern "C" __global__ void early_return(float* y) {
  if (threadIdx.x == 0) return;
  y[threadIdx.x] = 1.0f;
  __syncthreads();  // BUG early_return
}

extern "C" __global__ void deadlock(float* y) {
  if (threadIdx.x < 5) __shfl_sync(~0u, y[0], 0);  // BUG deadlock
  else __syncthreads();
}

extern "C" __global__ void out_of_bounds(const float* x, float* y, int n) {
  if (threadIdx.x <= n) y[threadIdx.x] = 2.0f * x[0];  // BUG out_of_bounds
}

extern "C" __global__ void out_of_bounds_shared(float* y) {
  DYN_SHARED(float, values);
  values[threadIdx.x + 1] = 1.0f;  // BUG out_of_bounds_shared
  y[threadIdx.x] = values[threadIdx.x + 1];
}

extern "C" __global__ void misaligned(const float* x, float* y) {
  const float2 two = *reinterpret_cast<const float2*>(x + 1);  // BUG misaligned
  y[0] = two.x + two.y;
}

extern "C" __global__ void uninitialised(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x];  // BUG uninitialised
}

extern "C" __global__ void uninitialised_shared(float* y) {
  __shared__ float values[32];
  if (threadIdx.x < 31) values[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = values[threadIdx.x];  // BUG uninitialised_shared
}

extern "C" __global__ void far_out_of_bounds(float* y, long long far) {
  y[far] = 1.0f;  // BUG far_out_of_bounds
}

extern "C" __global__ void divide(int* y, int by) {
  y[0] = y[0] / by;  // BUG divide
}
