//! Reductions in an order that vectorises.
use super::elementary::Elementary;
use crate::dtype::Real;

/// Maximum, by sixteen interleaved partial maxima.
#[inline(always)]
pub(crate) fn max_of<T: Elementary>(x: &[T]) -> T {
    fold(x, T::neg_infinity(), |a, b| if b > a { b } else { a })
}

/// Reduction by sixteen interleaved partial results, which are then combined in order: a fixed order that vectorises.
#[inline(always)]
pub(crate) fn fold<T: Real>(x: &[T], start: T, f: impl Fn(T, T) -> T) -> T {
    let mut lanes = [start; 16];
    let mut groups = x.chunks_exact(16);
    for group in &mut groups {
        for l in 0..16 {
            lanes[l] = f(lanes[l], group[l]);
        }
    }
    let tail = groups.remainder().iter().fold(start, |a, b| f(a, *b));
    lanes.iter().fold(tail, |a, b| f(a, *b))
}
