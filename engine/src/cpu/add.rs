//! Elementwise sum.
use super::parallel::for_each_piece;
use crate::dtype::Real;

/// `y = a + b`.
pub fn forward<T: Real>(a: &[T], b: &[T], y: &mut [T]) {
    for_each_piece(y, |start, y| {
        for ((y, a), b) in y.iter_mut().zip(&a[start..]).zip(&b[start..]) {
            *y = *a + *b;
        }
    });
}

/// `a += b`.
pub fn add_assign<T: Real>(a: &mut [T], b: &[T]) {
    for_each_piece(a, |start, a| {
        for (a, b) in a.iter_mut().zip(&b[start..]) {
            *a += *b;
        }
    });
}
