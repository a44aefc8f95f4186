//! Rectified linear unit.
use super::parallel::for_each_piece;
use crate::dtype::Real;

/// `y = max(x, 0)`; NaN stays NaN.
pub fn forward<T: Real>(x: &[T], y: &mut [T]) {
    for_each_piece(y, |start, y| {
        for (y, x) in y.iter_mut().zip(&x[start..]) {
            *y = if *x < T::zero() { T::zero() } else { *x };
        }
    });
}

/// `dx = y > 0 ? dy : 0`.
pub fn backward<T: Real>(y: &[T], dy: &[T], dx: &mut [T]) {
    for_each_piece(dx, |start, dx| {
        for ((dx, y), dy) in dx.iter_mut().zip(&y[start..]).zip(&dy[start..]) {
            *dx = if *y > T::zero() { *dy } else { T::zero() };
        }
    });
}
