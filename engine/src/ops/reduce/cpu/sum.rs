//! Sums over one axis of `[outer, n, inner]`, in chunks of fixed size that are merged in order.
use super::columns::column_sums;
use crate::cpu::fold::fold;
use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_task};
use crate::cpu::vectorized::vectorized;
use crate::dtype::Real;

/// Rows per chunk. Partial sums of a chunk are in the element type; chunks are merged in f64.
const ROWS: usize = 256;

/// `y[o, i] = sum over j of x[o, j, i]`.
pub fn sum<T: Real>(x: &[T], outer: usize, n: usize, inner: usize, y: &mut [T]) {
    assert!(x.len() == outer * n * inner && y.len() == outer * inner);
    if inner == 1 {
        return row_sums(x, n, y);
    }
    if outer == 1 {
        return column_sums(x, inner, y);
    }
    let out = DisjointSlice::new(y);
    for_each_task(outer, |o| {
        // SAFETY: each task has its own rows.
        let y = unsafe { out.slice(o * inner, inner) };
        merge_columns(&partial_columns(&x[o * n * inner..][..n * inner], inner), inner, y);
    });
}

/// Sum of all elements. Chunks are merged in order in f64.
pub fn sum_all<T: Real>(x: &[T]) -> f64 {
    let piece = GRAIN;
    let mut partial = vec![0.0f64; x.len().div_ceil(piece)];
    let out = DisjointSlice::new(&mut partial);
    for_each_task(x.len().div_ceil(piece), |i| {
        // SAFETY: one element per task.
        unsafe { out.slice(i, 1)[0] = lanes_sum(&x[i * piece..x.len().min((i + 1) * piece)]) };
    });
    partial.iter().sum()
}

fn row_sums<T: Real>(x: &[T], n: usize, y: &mut [T]) {
    if let [y] = y {
        *y = T::from_f64(sum_all(x));
        return;
    }
    let rows = (GRAIN / n.max(1)).max(1);
    let count = y.len();
    let out = DisjointSlice::new(y);
    for_each_task(count.div_ceil(rows), |task| {
        let (start, end) = (task * rows, count.min((task + 1) * rows));
        // SAFETY: each row belongs to one task.
        let y = unsafe { out.slice(start, end - start) };
        match n {
            0 => y.fill(T::zero()),
            1..=1024 => short_rows(&x[start * n..end * n], n, y),
            _ => y
                .iter_mut()
                .zip(x[start * n..].chunks_exact(n))
                .for_each(|(y, x)| *y = T::from_f64(lanes_sum(x))),
        }
    });
}

vectorized! {
    /// Sums of rows that are short enough for the element type.
    fn short_rows<T: Real>(x: &[T], n: usize, y: &mut [T]) {
        for (y, x) in y.iter_mut().zip(x.chunks_exact(n)) {
            *y = fold(x, T::zero(), |a, b| a + b);
        }
    }
}

/// Sum with sixteen interleaved partial sums per block of 1,024 elements, which vectorises and keeps rounding errors small.
fn lanes_sum<T: Real>(x: &[T]) -> f64 {
    x.chunks(1024)
        .map(|block| {
            let mut lanes = [T::zero(); 16];
            let mut groups = block.chunks_exact(16);
            for group in &mut groups {
                for (lane, v) in lanes.iter_mut().zip(group) {
                    *lane += *v;
                }
            }
            let tail: f64 = groups.remainder().iter().map(|v| v.to_f64()).sum();
            lanes.iter().map(|v| v.to_f64()).sum::<f64>() + tail
        })
        .sum()
}

fn partial_columns<T: Real>(x: &[T], columns: usize) -> Vec<T> {
    let piece = ROWS * columns;
    let mut partial = vec![T::zero(); x.len().div_ceil(piece) * columns];
    for (x, sums) in x.chunks(piece).zip(partial.chunks_exact_mut(columns)) {
        add_rows(x, columns, sums);
    }
    partial
}

fn add_rows<T: Real>(x: &[T], columns: usize, sums: &mut [T]) {
    for row in x.chunks_exact(columns) {
        for (sum, v) in sums.iter_mut().zip(row) {
            *sum += *v;
        }
    }
}

fn merge_columns<T: Real>(partial: &[T], columns: usize, y: &mut [T]) {
    for (c, y) in y.iter_mut().enumerate() {
        *y = T::from_f64(partial.iter().skip(c).step_by(columns).map(|v| v.to_f64()).sum());
    }
}
