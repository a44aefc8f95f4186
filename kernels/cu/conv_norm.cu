// From the sums of a convolution's output channels, and of their squares, to what batch normalisation applies.
//
// mean = sum / rows and var = squares / rows - mean^2, in f64 from sums in f32. If those are off by a relative e, var is off by
// some e * (var + 2 mean^2): a channel whose mean is 100 times its deviation keeps three digits where e is 1e-7. It is never negative.
#include "normalised.cuh"

namespace {

constexpr int kThreads = 256;

template <typename P>
__device__ void finalize(const float* __restrict__ sums, long long rows, int c, const P* weight, const P* bias,
                         P* running_mean, P* running_var, float momentum, float eps, float* saved) {
  const int j = blockIdx.x * kThreads + threadIdx.x;
  if (j >= c) return;
  const double mean = (double)sums[j] / rows;
  const double difference = (double)sums[c + j] / rows - mean * mean;
  // Comparisons are written so that NaN passes.
  const double var = difference < 0 ? 0 : difference;
  save(saved, c, j, mean, var, eps, weight, bias);
  if (running_mean) {
    update(running_mean + j, momentum, mean);
    update(running_var + j, momentum, var * rows / (rows - 1));
  }
}

}  // namespace

#define KERNEL extern "C" __global__ void __launch_bounds__(kThreads)

#define BY_PARAMETER(P, name)                                                                                              \
  KERNEL conv_norm_finalize_##name(const float* sums, long long rows, int c, const P* weight, const P* bias,                \
                                   P* running_mean, P* running_var, float momentum, float eps, float* saved) {              \
    finalize<P>(sums, rows, c, weight, bias, running_mean, running_var, momentum, eps, saved);                              \
  }

BY_PARAMETER(float, f32)
BY_PARAMETER(half16, f16)
BY_PARAMETER(bfloat16, bf16)
