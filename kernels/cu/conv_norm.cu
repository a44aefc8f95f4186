// Batch norm statistics from the per-channel sums and sums of squares that a fused convolution returns with its output y.
//
// mean = sum / rows and var = squares / rows - mean^2, in f64 from f32 sums. With a relative error e of the sums, the relative error of var
// is at most about e * (1 + 3 mean^2 / var). Where mean^2 > 32 var, so that it could exceed 100 e, mean and var are computed from y
// instead: in f64, from differences from the approximate mean. They are then exact but for the rounding of `saved` to f32. A constant
// channel other than 0 is such a case.
#include "batch_norm.cuh"
#include "channels.cuh"

namespace {

/// Largest mean^2 / var for which the sums give the variance.
constexpr double kMaxRatio = 32;

template <typename T, typename P>
__device__ void finalize(const T* __restrict__ y, const float* __restrict__ sums, long long rows, int c, const P* weight,
                         const P* bias, P* running_mean, P* running_var, const long long* batches, float momentum,
                         float eps, float* saved, int writes_moments) {
  const int j = blockIdx.x * kMergeLanes + threadIdx.x % kMergeLanes;
  const int part = threadIdx.x / kMergeLanes, parts = kThreads / kMergeLanes;
  double mean = 0, var = 0;
  if (j < c) {
    mean = (double)sums[j] / rows;
    var = (double)sums[c + j] / rows - mean * mean;
  }
  // NaN counts as not cancelled, and propagates.
  const bool cancelled = mean * mean > kMaxRatio * var;
  __shared__ int any_cancelled[kMergeLanes];
  if (part == 0) any_cancelled[threadIdx.x] = cancelled;
  __syncthreads();
  int any = 0;
  for (int k = 0; k < kMergeLanes; k++) any |= any_cancelled[k];
  if (any) {
    double sum = 0, squares = 0;
    for (long long i = part; i < rows && cancelled; i += parts) {
      const double d = to_float(y[i * c + j]) - mean;
      sum += d;
      squares += d * d;
    }
    sum = merge(sum) / rows;
    squares = merge(squares) / rows;
    if (cancelled) {
      mean += sum;
      var = squares - sum * sum;
      // The comparison is written so that NaN propagates.
      var = var < 0 ? 0 : var;
    }
  }
  if (part != 0 || j >= c) return;
  if (writes_moments) return store_moments(saved, c, j, mean, var * rows, rows);
  save_channel(saved, c, j, mean, var, eps, weight, bias);
  if (running_mean) {
    momentum = average_factor(batches, momentum);
    update_running(running_mean + j, momentum, mean);
    update_running(running_var + j, momentum, var * rows / (rows - 1));
  }
}

}  // namespace

#define BY_TYPES(T, P, t, p)                                                                                           \
  KERNEL conv_norm_finalize_##t##_##p(const T* y, const float* sums, long long rows, int c, const P* weight,           \
                                      const P* bias, P* running_mean, P* running_var, const long long* batches,        \
                                      float momentum, float eps, float* saved, int writes_moments) {                   \
    finalize<T, P>(y, sums, rows, c, weight, bias, running_mean, running_var, batches, momentum, eps, saved,           \
                   writes_moments);                                                                                    \
  }

BY_TYPES(half16, float, f16, f32)
BY_TYPES(half16, half16, f16, f16)
BY_TYPES(bfloat16, float, bf16, f32)
BY_TYPES(bfloat16, bfloat16, bf16, bf16)
