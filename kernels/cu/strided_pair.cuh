// Iteration over two arrays with independent strides.
#pragma once
#include "elementwise.cuh"

/// Offsets in two arrays, a and b, of `n` elements in rows of `inner`. Strides may be 0 (broadcast) or negative (reversal).
struct StridedPair {
  long long n, inner;
  /// Offset of the first element in each array, and in the dense result, if any.
  long long a_start, b_start, y_start;
  /// Strides within a row.
  long long a_stride, b_stride;
  /// Number of axes outside the rows. Above 0, n is less than 2^32.
  int rank;
  /// Rows consist of whole packs that start at multiples of a pack, in each array with stride 1.
  int packed;
  /// Extents and strides of the outer axes, outermost first.
  int extents[6];
  long long a[6], b[6];

  /// Offsets of element i in a and b.
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
    in_a += i * a_stride;
    in_b += i * b_stride;
  }
};
