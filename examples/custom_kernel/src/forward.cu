#include "channels.cuh"

KERNEL scale_relu2(PARAMETERS) {
  const Tile<V> tile((int)c);
  for (int t = 0; t < tile.count; t++) {
    const int at = tile.channel(t);  // the first of this thread's V channels
    float totals[V] = {};
    if (at < c) {
      float a[V], b[V];
      load_floats<V>(scale + at, a);
      load_floats<V>(bias + at, b);
      for_rows<4>(  // loads four rows before it computes the first
          (long long)blockIdx.x * tile.rows + tile.row, rows, (long long)gridDim.x * tile.rows,
          [&](long long row) { return Stored<T, V>::load(x + row * c + at); },
          [&](long long row, const Stored<T, V>& stored) {
            float v[V];
            stored.widen(v);
            for (int k = 0; k < V; k++) {
              const float r = fmaxf(a[k] * v[k] + b[k], 0);
              totals[k] += r * r;
              y[row * c + at + k] = from_float<T>(r * r);
            }
          });
    }
    sum_over_rows(totals, tile.lanes);
    for (int k = 0; k < V; k++) {
      if (at < c && tile.row == 0) partial[blockIdx.x * c + at + k] = totals[k];
    }
  }
  if (!is_last(ticket, gridDim.x)) return;  // the last block adds the sums of all blocks, in their order
  for (long long k = threadIdx.x; k < c; k += THREADS) {
    float total = 0;
    for (unsigned block = 0; block < gridDim.x; block++) total += partial[block * c + k];
    sum[k] = total;
  }
}
