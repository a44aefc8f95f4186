#include "channels.cuh"

KERNEL scale_relu2_backward(PARAMETERS) {
  const Tile<1> tile((int)c);
  for (int t = 0; t < tile.count; t++) {
    const int at = tile.channel(t);
    float of_scale[1] = {}, of_bias[1] = {};
    for (long long row = (long long)blockIdx.x * tile.rows + tile.row; at < c && row < rows; row += (long long)gridDim.x * tile.rows) {
      const float v = to_float(x[row * c + at]);
      const float d = to_float(dy[row * c + at]) * 2 * fmaxf(scale[at] * v + bias[at], 0);
      dx[row * c + at] = from_float<T>(d * scale[at]);
      of_scale[0] += d * v;
      of_bias[0] += d;
    }
    sum_over_rows(of_scale, tile.lanes);
    __syncthreads();
    sum_over_rows(of_bias, tile.lanes);
    __syncthreads();
    if (at < c && tile.row == 0) {
      partial[(2 * blockIdx.x) * c + at] = of_scale[0];
      partial[(2 * blockIdx.x + 1) * c + at] = of_bias[0];
    }
  }
  if (!is_last(ticket, gridDim.x)) return;
  for (long long k = threadIdx.x; k < c; k += THREADS) {
    float a = 0, b = 0;
    for (unsigned block = 0; block < gridDim.x; block++) {
      a += partial[2 * block * c + k];
      b += partial[(2 * block + 1) * c + k];
    }
    dscale[k] = a;
    dbias[k] = b;
  }
}
