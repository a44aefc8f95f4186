//! Bias and activation after the GEMM of a fully connected layer, in one pass over rows.
use crate::Activation;
use crate::cpu::elementary::Elementary;
use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_task};
use crate::ops::elementwise::cpu::activation;

/// Adds `bias` to each row of `y` in place, and applies ReLU if `relu` is set.
pub fn add_bias<T: Elementary>(bias: Option<&[T]>, relu: bool, row_len: usize, y: &mut [T]) {
    for_each_rows(row_len, y, |rows| rows.chunks_exact_mut(row_len).for_each(|row| add(bias, relu, row)));
}

/// Adds `bias` to each row of `z` in place, then computes `y = f(z)`.
pub fn add_bias_activate<T: Elementary>(
    f: Activation,
    bias: Option<&[T]>,
    row_len: usize,
    z: &mut [T],
    y: &mut [T],
) {
    assert_eq!(z.len(), y.len());
    if z.is_empty() {
        return;
    }
    let (z, rows, step) = (DisjointSlice::new(z), y.len() / row_len, GRAIN.div_ceil(row_len));
    let y = DisjointSlice::new(y);
    for_each_task(rows.div_ceil(step), |task| {
        for row in task * step..rows.min((task + 1) * step) {
            // SAFETY: a row belongs to one task.
            let (z, y) = unsafe { (z.slice(row * row_len, row_len), y.slice(row * row_len, row_len)) };
            add(bias, false, z);
            activation::forward(f, z, y);
        }
    });
}

fn add<T: Elementary>(bias: Option<&[T]>, relu: bool, row: &mut [T]) {
    if let Some(bias) = bias {
        row.iter_mut().zip(bias).for_each(|(y, b)| *y += *b);
    }
    if relu {
        // Written so that NaN propagates.
        row.iter_mut().for_each(|y| *y = if *y < T::zero() { T::zero() } else { *y });
    }
}

/// Runs `f` over chunks of whole rows.
fn for_each_rows<T: Send>(row_len: usize, y: &mut [T], f: impl Fn(&mut [T]) + Sync) {
    if y.is_empty() {
        return;
    }
    let piece = GRAIN.div_ceil(row_len) * row_len;
    let (len, y) = (y.len(), DisjointSlice::new(y));
    for_each_task(len.div_ceil(piece), |i| {
        // SAFETY: pieces do not overlap.
        f(unsafe { y.slice(i * piece, piece.min(len - i * piece)) });
    });
}
