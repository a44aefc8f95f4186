// Iteration over two arrays with independent strides.
#pragma once
#include "arguments.cuh"
#include "elementwise.cuh"

/// Offsets of element i in a and b.
__device__ __forceinline__ void locate(const StridedPair& pair, long long i, long long& in_a, long long& in_b) {
  in_a = pair.a_start;
  in_b = pair.b_start;
  if (pair.rank > 0) {
    unsigned row = (unsigned)i / (unsigned)pair.inner;
    i -= (long long)row * pair.inner;
    for (int axis = pair.rank - 1; axis >= 0; axis--) {
      const unsigned outer = row / (unsigned)pair.extents[axis], at = row - outer * (unsigned)pair.extents[axis];
      in_a += at * pair.a[axis];
      in_b += at * pair.b[axis];
      row = outer;
    }
  }
  in_a += i * pair.a_stride;
  in_b += i * pair.b_stride;
}
