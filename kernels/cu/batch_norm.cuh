// Batch normalization's saved statistics: `saved` is [4, c] floats: mean, 1 / std, scale = weight / std, shift = bias - mean * scale.
#pragma once
#include "fornax.cuh"

/// Writes channel j of `saved`. A null weight counts as 1, a null bias as 0.
template <typename P>
__device__ void save_channel(float* saved, int c, int j, double mean, double var, double eps, const P* weight, const P* bias) {
  const double inv_std = 1.0 / sqrt(var + eps);
  const double scale = (weight ? to_float(weight[j]) : 1.0f) * inv_std;
  saved[j] = (float)mean;
  saved[c + j] = (float)inv_std;
  saved[2 * c + j] = (float)scale;
  saved[3 * c + j] = (float)((bias ? to_float(bias[j]) : 0.0f) - mean * scale);
}

/// Writes the moments of channel j over `rows` rows to `to`, [2 c + 1]: mean, sum of squared deviations (M2), and once the number of rows.
__device__ inline void store_moments(float* to, int c, int j, double mean, double m2, long long rows) {
  to[j] = (float)mean;
  to[c + j] = (float)m2;
  if (j == 0) to[2 * c] = (float)rows;
}

/// Writes channel j of k2 and k3, [2, c], from its sums of d and of d * (x - mean) over `count` values: dx = scale * d + k2 * x + k3.
__device__ inline void store_factors(float* factors, const float* saved, int c, int j, double d, double dot, double count) {
  const double mean = saved[j], inv_std = saved[c + j], scale = saved[2 * c + j];
  const double k2 = -scale * inv_std * inv_std * dot / count;
  factors[j] = (float)k2;
  factors[c + j] = (float)(-scale * d / count - k2 * mean);
}

/// Weight of the batch in the running statistics: 1 / batches, in which this one is counted, or `momentum` without a count.
__device__ inline float average_factor(const long long* batches, float momentum) {
  return batches ? (float)(1.0 / *batches) : momentum;
}

/// running = (1 - momentum) * running + momentum * batch
template <typename P> __device__ void update_running(P* running, float momentum, double batch) {
  *running = from_float<P>((float)((1.0 - momentum) * to_float(*running) + momentum * batch));
}
