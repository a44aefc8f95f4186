//! Softmax and log-softmax over rows.
use super::elementary::Elementary;
use super::parallel::{DisjointSlice, GRAIN, for_each_task};
use super::vectorized::vectorized;
use crate::dtype::Real;

/// `y = softmax(x)`, or `log_softmax(x)` with `log`, over consecutive rows of `n` elements.
pub fn forward<T: Elementary>(x: &[T], n: usize, log: bool, y: &mut [T]) {
    for_rows(x.len(), n, y, |at, y| if log { log_row(&x[at..at + n], y) } else { row(&x[at..at + n], y) });
}

/// `dx = y (dy - sum(dy y))`, or `dx = dy - e^y sum(dy)` with `log`.
pub fn backward<T: Elementary>(y: &[T], dy: &[T], n: usize, log: bool, dx: &mut [T]) {
    for_rows(y.len(), n, dx, |at, dx| {
        let (y, dy) = (&y[at..at + n], &dy[at..at + n]);
        if log { log_row_backward(y, dy, dx) } else { row_backward(y, dy, dx) }
    });
}

fn for_rows<T: Elementary>(len: usize, n: usize, out: &mut [T], f: impl Fn(usize, &mut [T]) + Sync + Send) {
    let rows = len / n.max(1);
    // An exponential costs about as much as four copies.
    let per_task = (GRAIN / 4 / n.max(1)).max(1);
    let out = DisjointSlice::new(out);
    for_each_task(rows.div_ceil(per_task), |task| {
        for r in task * per_task..rows.min((task + 1) * per_task) {
            // SAFETY: each row belongs to one task.
            f(r * n, unsafe { out.slice(r * n, n) });
        }
    });
}

/// Maximum, by sixteen interleaved partial maxima.
#[inline(always)]
pub(super) fn max_of<T: Elementary>(x: &[T]) -> T {
    fold(x, T::neg_infinity(), |a, b| if b > a { b } else { a })
}

/// Reduction by sixteen interleaved partial results, which are then combined in order: a fixed order that vectorises.
#[inline(always)]
pub(super) fn fold<T: Real>(x: &[T], start: T, f: impl Fn(T, T) -> T) -> T {
    let mut lanes = [start; 16];
    let mut groups = x.chunks_exact(16);
    for group in &mut groups {
        for l in 0..16 {
            lanes[l] = f(lanes[l], group[l]);
        }
    }
    let tail = groups.remainder().iter().fold(start, |a, b| f(a, *b));
    lanes.iter().fold(tail, |a, b| f(a, *b))
}

vectorized! {
    wide fn row<T: Elementary>(x: &[T], y: &mut [T]) {
        let max = max_of(x);
        for (y, x) in y.iter_mut().zip(x) {
            *y = (*x - max).fast_exp();
        }
        let scale = T::one() / fold(y, T::zero(), |a, b| a + b);
        y.iter_mut().for_each(|y| *y *= scale);
    }
}

vectorized! {
    wide fn log_row<T: Elementary>(x: &[T], y: &mut [T]) {
        let max = max_of(x);
        for (y, x) in y.iter_mut().zip(x) {
            *y = (*x - max).fast_exp();
        }
        let shift = max + fold(y, T::zero(), |a, b| a + b).ln();
        for (y, x) in y.iter_mut().zip(x) {
            *y = *x - shift;
        }
    }
}

vectorized! {
    fn row_backward<T: Elementary>(y: &[T], dy: &[T], dx: &mut [T]) {
        for i in 0..dx.len() {
            dx[i] = dy[i] * y[i];
        }
        let sum = fold(dx, T::zero(), |a, b| a + b);
        for i in 0..dx.len() {
            dx[i] -= y[i] * sum;
        }
    }
}

vectorized! {
    wide fn log_row_backward<T: Elementary>(y: &[T], dy: &[T], dx: &mut [T]) {
        let sum = fold(dy, T::zero(), |a, b| a + b);
        for i in 0..dx.len() {
            dx[i] = dy[i] - y[i].fast_exp() * sum;
        }
    }
}
