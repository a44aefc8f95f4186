// Two arrays walked side by side along axes with steps of their own.
#pragma once
#include "elementwise.cuh"

/// `n` elements in rows of `inner`: where each lies in two arrays, a and b. Steps may be 0 (repetition) or negative (reversal).
struct Walk {
  long long n, inner;
  /// First element in each array, and in the dense result where there is one.
  long long a_start, b_start, y_start;
  /// Steps within a row.
  long long a_step, b_step;
  /// Number of axes outside the rows; below 2^32 elements unless it is 0.
  int rank;
  /// Rows are whole packs at places where packs begin, in each array that advances within a row.
  int packed;
  int extents[6];
  long long a[6], b[6];

  /// Where element i lies.
  __device__ __forceinline__ void locate(long long i, long long& in_a, long long& in_b) const {
    in_a = a_start;
    in_b = b_start;
    if (rank > 0) {
      unsigned row = (unsigned)i / (unsigned)inner;
      i -= (long long)row * inner;
      for (int axis = rank - 1; axis >= 0; axis--) {
        const unsigned outer = row / (unsigned)extents[axis], at = row - outer * (unsigned)extents[axis];
        in_a += at * a[axis];
        in_b += at * b[axis];
        row = outer;
      }
    }
    in_a += i * a_step;
    in_b += i * b_step;
  }
};
