//! Dropout with counter-based random numbers, so that each chunk generates its own.
use crate::cpu::parallel::for_each_piece;
use crate::dtype::Real;
use crate::random::RngStream;

/// `y[i] = x[i] * factor` if random number `i` of the stream is below `keep_prob`, else 0. With `rows`, row `r` has the random numbers of
/// row `rows[r]` of a larger tensor.
pub fn forward<T: Real>(
    x: &[T],
    stream: &RngStream,
    rows: Option<&[i64]>,
    keep_prob: f64,
    factor: T,
    y: &mut [T],
) {
    let columns = rows.map_or(x.len(), |rows| x.len() / rows.len().max(1));
    for_each_piece(y, |start, y| {
        let mut done = 0;
        while done < y.len() {
            // The rest of a row has successive random numbers.
            let (row, column) = ((start + done) / columns, (start + done) % columns);
            let count = (columns - column).min(y.len() - done);
            let first = rows.map_or(row, |rows| rows[row] as usize) * columns + column;
            let mut rng = stream.at(first as u64);
            for (x, y) in x[start + done..].iter().zip(&mut y[done..][..count]) {
                let keep = rng.uniform() < keep_prob as f32;
                *y = if keep { *x * factor } else { T::zero() };
            }
            done += count;
        }
    });
}
