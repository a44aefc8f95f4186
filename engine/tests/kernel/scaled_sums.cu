// y = FACTOR · x, and the sums of y by channel.
#include "channels.cuh"

KERNEL scaled_sums(PARAMETERS) {
  const Tile<V> tile((int)c);
  for (int t = 0; t < tile.count; t++) {
    const int at = tile.channel(t);
    float totals[V] = {};
    if (at < c) {
      for_rows<2>(
          (long long)blockIdx.x * tile.rows + tile.row, rows, (long long)gridDim.x * tile.rows,
          [&](long long row) { return Stored<T, V>::load(x + row * c + at); },
          [&](long long row, const Stored<T, V>& stored) {
            float values[V];
            stored.widen(values);
            for (int k = 0; k < V; k++) {
              values[k] *= FACTOR;
              totals[k] += values[k];
              y[row * c + at + k] = from_float<T>(values[k]);
            }
          });
    }
    sum_over_rows(totals, tile.lanes);
    if (at < c && tile.row == 0) {
      for (int k = 0; k < V; k++) partial[blockIdx.x * c + at + k] = totals[k];
    }
  }
  if (!is_last(ticket, gridDim.x)) return;
  for (long long k = threadIdx.x; k < c; k += THREADS) {
    float total = 0;
    for (unsigned block = 0; block < gridDim.x; block++) total += partial[block * c + k];
    sum[k] = total;
  }
}
