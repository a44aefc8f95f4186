// Batch norm statistics from the per-channel sums and sums of squares that a fused convolution returns with its output y.
//
// mean = sum / rows and var = squares / rows - mean^2, in f64 from f32 sums. With a relative error e of the sums, the relative error of var
// is at most about e * (1 + 3 mean^2 / var). Where mean^2 > 32 var, so that it could exceed 100 e, mean and var are computed from y
// instead: in f64, from differences from the approximate mean. They are then exact but for the rounding of `saved` to f32. A constant
// channel other than 0 is such a case.
#include "arguments.cuh"
#include "batch_norm.cuh"
#include "channels.cuh"

namespace {

/// Largest mean^2 / var for which the sums give the variance.
constexpr double kMaxRatio = 32;

/// `partial` is [gridDim.y, 2, c], and a tile of channels, blockIdx.x, has a ticket. A tile without a cancelled channel is done by its
/// first block; in others each block reads a chunk of the rows, and the last one to finish merges the sums of all, in order.
template <typename T, typename P>
__device__ void finalize(const ConvNorm& norm, double* partial, unsigned* tickets, long long rows, int c, long long chunk_rows,
                         int writes_moments) {
  const int j = blockIdx.x * kMergeLanes + threadIdx.x % kMergeLanes;
  const int part = threadIdx.x / kMergeLanes, parts = kThreads / kMergeLanes;
  double mean = 0, var = 0;
  if (j < c) {
    mean = (double)norm.sums[j] / rows;
    var = (double)norm.sums[c + j] / rows - mean * mean;
  }
  // NaN counts as not cancelled, and propagates.
  const bool cancelled = mean * mean > kMaxRatio * var;
  if (__syncthreads_or(cancelled)) {
    const T* const y = static_cast<const T*>(norm.y);
    double sum = 0, squares = 0;
    if (cancelled) {
      const long long first = blockIdx.y * chunk_rows;
      for_rows<4>(
          first + part, min(first + chunk_rows, rows), parts, [&](long long i) { return y[i * c + j]; },
          [&](long long, T value) {
            const double d = to_float(value) - mean;
            sum += d;
            squares += d * d;
          });
    }
    sum = merge(sum);
    squares = merge(squares);
    if (gridDim.y > 1) {
      if (cancelled && part == 0) {
        partial[blockIdx.y * 2ll * c + j] = sum;
        partial[blockIdx.y * 2ll * c + c + j] = squares;
      }
      if (!is_last(tickets + blockIdx.x, gridDim.y)) return;
      sum = squares = 0;
      for (int chunk = part; chunk < (int)gridDim.y && cancelled; chunk += parts) {
        sum += partial[chunk * 2ll * c + j];
        squares += partial[chunk * 2ll * c + c + j];
      }
      sum = merge(sum);
      squares = merge(squares);
    }
    if (cancelled) {
      sum /= rows;
      mean += sum;
      var = squares / rows - sum * sum;
      // The comparison is written so that NaN propagates.
      var = var < 0 ? 0 : var;
    }
  } else if (blockIdx.y > 0) {
    return;
  }
  if (part != 0 || j >= c) return;
  if (writes_moments) return store_moments(norm.saved, c, j, mean, var * rows, rows);
  save_channel(norm.saved, c, j, mean, var, norm.eps, static_cast<const P*>(norm.weight), static_cast<const P*>(norm.bias));
  if (norm.running_mean) {
    const float momentum = average_factor(norm.batches, norm.momentum);
    update_running(static_cast<P*>(norm.running_mean) + j, momentum, mean);
    update_running(static_cast<P*>(norm.running_var) + j, momentum, var * rows / (rows - 1));
  }
}

}  // namespace

// Five blocks per multiprocessor: most blocks of a launch end at once.
#define BY_TYPES(T, P, t, p)                                                                                                        \
  extern "C" __global__ void __launch_bounds__(kThreads, 5)                                                                         \
      conv_norm_finalize_##t##_##p(const __grid_constant__ ConvNorms all, double* partial, unsigned* tickets, long long rows,       \
                                   int c, long long chunk_rows, int writes_moments) {                                               \
    finalize<T, P>(all.norms[blockIdx.z], partial + blockIdx.z * (gridDim.y * 2ll * c), tickets + blockIdx.z * gridDim.x, rows, c,  \
                   chunk_rows, writes_moments);                                                                                     \
  }

BY_TYPES(half16, float, f16, f32)
BY_TYPES(half16, half16, f16, f16)
BY_TYPES(bfloat16, float, bf16, f32)
BY_TYPES(bfloat16, bfloat16, bf16, bf16)
