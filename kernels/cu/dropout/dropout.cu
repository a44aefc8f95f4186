// Dropout (Srivastava et al., 2014) with Philox4x32-10 (Salmon et al., 2011). The random words are those of `random::RngStream` on the
// CPU, word i for element i, so that the device and the CPU drop the same elements, forward and backward.
#include "elementwise.cuh"
#include "philox.cuh"

namespace {

/// Uniform in [0, 1), a multiple of 2^-24.
__device__ __forceinline__ float uniform(unsigned word) { return (float)(word >> 8) * (1.0f / (1 << 24)); }

/// Random words of the four elements of Philox block `block`. With `rows`, of `columns` elements each, row r has the words of row rows[r]
/// of a larger tensor. They are read from device memory: each replay of a captured launch uses new ones.
__device__ __forceinline__ void words_of(const PhiloxStream& rng, long long block, long long n, const long long* rows, long long columns,
                                         unsigned (&words)[4]) {
  if (!rows) {
    philox(rng, (unsigned)block, words);
  } else if (columns % 4 == 0) {
    const long long row = block * 4 / columns;
    philox(rng, (unsigned)((rows[row] - row) * (columns / 4) + block), words);
  } else {
    // The four elements may be in several Philox blocks.
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const long long i = block * 4 + k;
      if (i >= n) continue;
      const long long row = i / columns, word = (rows[row] - row) * columns + i;
      unsigned of_word[4];
      philox(rng, (unsigned)(word / 4), of_word);
      words[k] = word % 4 == 0 ? of_word[0] : word % 4 == 1 ? of_word[1] : word % 4 == 2 ? of_word[2] : of_word[3];
    }
  }
}

/// y = uniform < keep_prob ? scale * x : 0. A thread handles a pack of one or two Philox blocks; at the end, or where x or y is not
/// aligned, one block, element by element. `step`, unless it is null, is added to the sample index in the counter; it is read from device
/// memory, too.
template <typename T>
__device__ void dropout(const T* x, T* y, long long n, float keep_prob, float scale, PhiloxStream rng, const long long* step,
                        const long long* rows, long long columns) {
  constexpr int N = Pack<T>::N;
  if (step) {
    const unsigned long long sample = ((unsigned long long)rng.counter[2] << 32 | rng.counter[1]) + *step;
    rng.counter[1] = (unsigned)sample;
    rng.counter[2] = (unsigned)(sample >> 32);
  }
  const GridStride loop;
  const long long packs = aligned(x) && aligned(y) ? n / N : 0;
  for_rows<4>(
      loop.first, packs, loop.step, [&](long long i) { return Stored<T, N>::load(x + i * N); },
      [&](long long i, const Stored<T, N>& stored) {
        float v[N];
        stored.widen(v);
#pragma unroll
        for (int first = 0; first < N; first += 4) {
          unsigned words[4] = {};
          words_of(rng, (i * N + first) / 4, n, rows, columns, words);
#pragma unroll
          for (int k = 0; k < 4; k++) v[first + k] = uniform(words[k]) < keep_prob ? scale * v[first + k] : 0.0f;
        }
        store<N>(y + i * N, v);
      });
  for (long long block = packs * N / 4 + loop.first; block * 4 < n; block += loop.step) {
    unsigned words[4] = {};
    words_of(rng, block, n, rows, columns, words);
#pragma unroll
    for (int k = 0; k < 4; k++) {
      const long long i = block * 4 + k;
      if (i < n) y[i] = from_float<T>(uniform(words[k]) < keep_prob ? scale * to_float(x[i]) : 0.0f);
    }
  }
}

}  // namespace

#define DROPOUT(T, name)                                                                                \
  KERNEL dropout_##name(const T* x, T* y, long long n, float keep_prob, float scale, PhiloxStream rng,  \
                        const long long* step, const long long* rows, long long columns) {              \
    dropout<T>(x, y, n, keep_prob, scale, rng, step, rows, columns);                                    \
  }

DROPOUT(float, f32)
DROPOUT(half16, f16)
DROPOUT(bfloat16, bf16)
