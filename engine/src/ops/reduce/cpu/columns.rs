//! Sums over the rows of a matrix.
use crate::cpu::scratch;
use crate::cpu::simd::simd_kernel;
use crate::dtype::{Element, Real, as_f32, as_f32_mut};
use rayon::prelude::*;

/// Rows per partial sum: constant, so that the order of additions depends on the shape alone.
const ROWS: usize = 256;

/// `sums[j] = sum over rows of m[row, j]`, with `m` `[rows, columns]`. Chunks of rows are summed in `T` and merged in order in f64.
pub(super) fn column_sums<T: Real>(m: &[T], columns: usize, sums: &mut [T]) {
    assert_eq!(sums.len(), columns, "one sum for each column");
    let chunk = ROWS * columns;
    if m.is_empty() {
        return sums.fill(T::zero());
    }
    let chunks = m.len().div_ceil(chunk);
    scratch::with(chunks * columns, |partial: &mut [T]| {
        let each = partial.par_chunks_mut(columns).zip(m.par_chunks(chunk)).with_max_len(16);
        each.for_each(|(sum, rows)| match (as_f32(rows), as_f32_mut(sum)) {
            // SAFETY: `rows` is whole rows of `columns` elements, as many as `sum` has.
            (Some(rows), Some(sum)) => unsafe {
                sum_rows(rows.as_ptr(), rows.len() / columns, columns, sum.as_mut_ptr())
            },
            _ => {
                sum.fill(T::zero());
                for row in rows.chunks_exact(columns) {
                    sum.iter_mut().zip(row).for_each(|(a, b)| *a += *b);
                }
            }
        });
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = T::from_f64(partial.iter().skip(j).step_by(columns).map(|v| Element::to_f64(*v)).sum());
        }
    });
}

/// Registers of sums at once: independent additions hide their latency.
const REGISTERS: usize = 4;

simd_kernel! {
    /// `sum[j] = sum over rows of m[row, j]`, for `rows` rows of `columns` elements. `sum` is overwritten.
    fn sum_rows<S>(m: *const f32, rows: usize, columns: usize, sum: *mut f32) {
        // SAFETY: the caller's pointers hold so many elements, and lanes stop at the last column.
        unsafe {
            let mut j = 0;
            while j + REGISTERS * S::LANES <= columns {
                let mut acc = [S::splat(0.0); REGISTERS];
                for r in 0..rows {
                    let row = m.add(r * columns + j);
                    for k in 0..REGISTERS {
                        acc[k] = S::add(acc[k], S::load(row.add(k * S::LANES)));
                    }
                }
                for k in 0..REGISTERS {
                    S::store(sum.add(j + k * S::LANES), acc[k]);
                }
                j += REGISTERS * S::LANES;
            }
            while j < columns {
                let lanes = if columns - j < S::LANES { columns - j } else { S::LANES };
                let mut acc = S::splat(0.0);
                for r in 0..rows {
                    acc = S::add(acc, S::load_first(m.add(r * columns + j), lanes));
                }
                S::store_first(sum.add(j), lanes, acc);
                j += S::LANES;
            }
        }
    }
}
