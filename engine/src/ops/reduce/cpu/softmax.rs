//! Softmax and log-softmax over rows.
use crate::cpu::elementary::Elementary;
use crate::cpu::fold::{fold, max_of};
use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_task};
use crate::cpu::vectorized::vectorized;

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
