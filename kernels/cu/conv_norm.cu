// Batch norm statistics from the per-channel sums and sums of squares that a fused convolution returns.
//
// mean = sum / rows and var = squares / rows - mean^2, in f64 from f32 sums. A relative error e of the sums gives an error of about
// e * (var + 2 mean^2) in var: with e = 1e-7, three digits are correct for a channel whose mean is 100 standard deviations. var is clamped at 0.
#include "batch_norm.cuh"

namespace {

constexpr int kThreads = 256;

template <typename P>
__device__ void finalize(const float* __restrict__ sums, long long rows, int c, const P* weight, const P* bias,
                         P* running_mean, P* running_var, const long long* batches, float momentum, float eps, float* saved) {
  const int j = blockIdx.x * kThreads + threadIdx.x;
  if (j >= c) return;
  const double mean = (double)sums[j] / rows;
  const double difference = (double)sums[c + j] / rows - mean * mean;
  // Comparisons are written so that NaN propagates.
  const double var = difference < 0 ? 0 : difference;
  save_channel(saved, c, j, mean, var, eps, weight, bias);
  if (running_mean) {
    momentum = average_factor(batches, momentum);
    update_running(running_mean + j, momentum, mean);
    update_running(running_var + j, momentum, var * rows / (rows - 1));
  }
}

}  // namespace

#define KERNEL extern "C" __global__ void __launch_bounds__(kThreads)

#define BY_PARAMETER(P, name)                                                                                 \
  KERNEL conv_norm_finalize_##name(const float* sums, long long rows, int c, const P* weight, const P* bias,  \
                                   P* running_mean, P* running_var, const long long* batches, float momentum, \
                                   float eps, float* saved) {                                                 \
    finalize<P>(sums, rows, c, weight, bias, running_mean, running_var, batches, momentum, eps, saved);       \
  }

BY_PARAMETER(float, f32)
BY_PARAMETER(half16, f16)
BY_PARAMETER(bfloat16, bf16)
