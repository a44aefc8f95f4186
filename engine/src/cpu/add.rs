//! In-place addition, for accumulating gradients.
use super::parallel::for_each_piece;
use super::vectorized::vectorized;
use crate::dtype::Real;

/// `a += b`.
pub fn add_assign<T: Real>(a: &mut [T], b: &[T]) {
    for_each_piece(a, |start, a| add_chunk(a, &b[start..start + a.len()]));
}

vectorized! {
    fn add_chunk<T: Real>(a: &mut [T], b: &[T]) {
        for (a, b) in a.iter_mut().zip(b) {
            *a += *b;
        }
    }
}
