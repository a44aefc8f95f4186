//! Sums over the rows of a matrix: the bias gradient.
use crate::cpu::scratch;
use crate::dtype::{Element, Real};
use rayon::prelude::*;

/// Rows of one partial sum: fixed, so that the order of additions depends on the shape alone.
const ROWS: usize = 256;

/// `sums[j]`: the sum over rows of `m`, `[rows, columns]`. Chunks of rows are summed in `T` and merged, in order, in f64.
pub(super) fn column_sums<T: Real>(m: &[T], columns: usize, sums: &mut [T]) {
    if m.is_empty() {
        return sums.fill(T::zero());
    }
    let chunk = ROWS * columns;
    let chunks = m.len().div_ceil(chunk);
    scratch::with(chunks * columns, |partial: &mut [T]| {
        partial.par_chunks_mut(columns).zip(m.par_chunks(chunk)).with_max_len(16).for_each(|(sum, rows)| {
            sum.fill(T::zero());
            for row in rows.chunks_exact(columns) {
                for (a, b) in sum.iter_mut().zip(row) {
                    *a += *b;
                }
            }
        });
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = T::from_f64(partial.iter().skip(j).step_by(columns).map(|v| Element::to_f64(*v)).sum());
        }
    });
}
