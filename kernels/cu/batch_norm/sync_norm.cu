// Batch norm with the statistics of all ranks: what happens to the per-channel results of the ranks between the passes over the data.
#include "batch_norm.cuh"
#include "channels.cuh"

namespace {

/// Merges the moments of all ranks, [ranks][2 c + 1] (`store_moments`), which may have different numbers of rows.
template <typename P>
__device__ void merge_ranks(const float* __restrict__ moments, int ranks, int c, const P* weight, const P* bias, P* running_mean, P* running_var,
                      const long long* batches, float momentum, float eps, float* saved, float* count) {
  const int j = blockIdx.x * kThreads + threadIdx.x;
  if (j >= c) return;
  const long long stride = 2ll * c + 1;
  double rows = 0, sum = 0, m2 = 0;
  for (int r = 0; r < ranks; r++) {
    const double n = moments[r * stride + 2 * c];
    rows += n;
    sum += n * moments[r * stride + j];
  }
  const double mean = sum / rows;
  for (int r = 0; r < ranks; r++) {
    const double distance = moments[r * stride + j] - mean;
    m2 += moments[r * stride + c + j] + moments[r * stride + 2 * c] * distance * distance;
  }
  save_channel(saved, c, j, mean, m2 / rows, eps, weight, bias);
  if (j == 0) *count = (float)rows;
  if (!running_mean) return;
  momentum = average_factor(batches, momentum);
  update_running(running_mean + j, momentum, mean);
  update_running(running_var + j, momentum, m2 / (rows - 1));
}

}  // namespace

/// Replaces the sums of d and of d * (x - mean) over all ranks, [2, c], by k2 and k3.
KERNEL sync_norm_factors(float* factors, const float* saved, const float* count, int c) {
  const int j = blockIdx.x * kThreads + threadIdx.x;
  if (j < c) store_factors(factors, saved, c, j, factors[j], factors[c + j], *count);
}

#define BY_PARAMETER(P, name)                                                                                                    \
  KERNEL sync_norm_merge_##name(const float* moments, int ranks, int c, const P* weight, const P* bias, P* running_mean,         \
                                P* running_var, const long long* batches, float momentum, float eps, float* saved, float* count) { \
    merge_ranks(moments, ranks, c, weight, bias, running_mean, running_var, batches, momentum, eps, saved, count);                     \
  }

BY_PARAMETER(float, f32)
BY_PARAMETER(half16, f16)
BY_PARAMETER(bfloat16, bf16)
