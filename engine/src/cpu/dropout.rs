//! Dropout with counter-based random numbers, so that each chunk generates its own.
use super::parallel::for_each_piece;
use crate::dtype::Real;
use crate::random::RngStream;

/// `y[i] = x[i] * factor` if sample `i` of the stream is below `keep_prob`, else 0.
pub fn forward<T: Real>(x: &[T], stream: &RngStream, keep_prob: f64, factor: T, y: &mut [T]) {
    for_each_piece(y, |start, y| {
        let mut rng = stream.at(start as u64);
        for (i, y) in y.iter_mut().enumerate() {
            let keep = rng.uniform() < keep_prob as f32;
            *y = if keep { x[start + i] * factor } else { T::zero() };
        }
    });
}
