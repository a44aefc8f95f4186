//! Elementwise functions of one tensor with two scalar arguments.
use crate::cpu::parallel::for_each_piece;
use crate::cpu::vectorized::vectorized;
use crate::scalar::Elementary;
pub use crate::scalar::function::{UnaryFn, unary::*};

/// `y = F(x, p, q)`.
pub fn forward<T: Elementary, F: UnaryFn>(x: &[T], p: T, q: T, y: &mut [T]) {
    for_each_piece(y, |start, y| apply_chunk::<T, F>(&x[start..start + y.len()], p, q, y));
}

vectorized! {
    /// One chunk of the result.
    wide fn apply_chunk<T: Elementary, F: UnaryFn>(x: &[T], p: T, q: T, y: &mut [T]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = F::apply(*x, p, q);
        }
    }
}
