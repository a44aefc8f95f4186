//! Elementwise functions of two tensors, with broadcasting.
use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_task};
use crate::cpu::vectorized::vectorized;
use crate::scalar::Elementary;
pub use crate::scalar::function::{BinaryFn, binary::*};

/// Strides of two operands that broadcast to one result: rows of `inner` elements, in which each operand has stride 0 or 1, and
/// outer axes with arbitrary strides.
pub struct BroadcastLayout {
    outer: Vec<(usize, usize, usize)>,
    inner: usize,
    steps: (usize, usize),
}

impl BroadcastLayout {
    /// Layout for the result's extents and the operands' strides (0 along broadcast axes). Neighbouring axes are merged where
    /// possible.
    pub fn new(extents: &[usize], a: &[usize], b: &[usize]) -> BroadcastLayout {
        let mut axes: Vec<(usize, usize, usize)> = vec![];
        for ((&n, &sa), &sb) in extents.iter().zip(a).zip(b).filter(|((n, _), _)| **n != 1) {
            match axes.last_mut() {
                // The outer axis is contiguous with the inner one in both operands: merge them.
                Some(last) if last.1 == sa * n && last.2 == sb * n => *last = (last.0 * n, sa, sb),
                _ => axes.push((n, sa, sb)),
            }
        }
        match axes.pop() {
            Some((inner, sa, sb)) if sa <= 1 && sb <= 1 => {
                BroadcastLayout { outer: axes, inner, steps: (sa, sb) }
            }
            Some(axis) => {
                axes.push(axis);
                BroadcastLayout { outer: axes, inner: 1, steps: (0, 0) }
            }
            None => BroadcastLayout { outer: vec![], inner: 1, steps: (0, 0) },
        }
    }

    /// Elements of a row.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Stride of each operand within a row: 0 or 1.
    pub fn steps(&self) -> (usize, usize) {
        self.steps
    }

    /// Offset of row `row` in each operand.
    pub fn start(&self, row: usize) -> (usize, usize) {
        let (mut rest, mut a, mut b) = (row, 0, 0);
        for &(n, sa, sb) in self.outer.iter().rev() {
            a += rest % n * sa;
            b += rest % n * sb;
            rest /= n;
        }
        (a, b)
    }
}

/// `y = F(a, b)` with broadcasting.
pub fn forward<T: Elementary, F: BinaryFn>(layout: &BroadcastLayout, a: &[T], b: &[T], y: &mut [T]) {
    let inner = layout.inner;
    let rows = y.len() / inner.max(1);
    let out = DisjointSlice::new(y);
    if rows == 1 {
        // One long row: split it.
        let (sa, sb) = layout.steps;
        return for_each_task(inner.div_ceil(GRAIN), |task| {
            let (start, len) = (task * GRAIN, GRAIN.min(inner - task * GRAIN));
            // SAFETY: pieces do not overlap.
            let y = unsafe { out.slice(start, len) };
            row::<T, F>(&a[start * sa..], sa, &b[start * sb..], sb, y);
        });
    }
    let rows_per_task = (GRAIN / inner.max(1)).max(1);
    for_each_task(rows.div_ceil(rows_per_task), |task| {
        for r in task * rows_per_task..rows.min((task + 1) * rows_per_task) {
            let (i, j) = layout.start(r);
            // SAFETY: each row belongs to one task.
            let y = unsafe { out.slice(r * inner, inner) };
            row::<T, F>(&a[i..], layout.steps.0, &b[j..], layout.steps.1, y);
        }
    });
}

vectorized! {
    /// One row of the result.
    wide fn row<T: Elementary, F: BinaryFn>(a: &[T], a_step: usize, b: &[T], b_step: usize, y: &mut [T]) {
        let n = y.len();
        match (a_step, b_step) {
            (1, 1) => {
                let (a, b) = (&a[..n], &b[..n]);
                for i in 0..n {
                    y[i] = F::apply(a[i], b[i]);
                }
            }
            (1, _) => {
                let (a, b) = (&a[..n], b[0]);
                for i in 0..n {
                    y[i] = F::apply(a[i], b);
                }
            }
            (_, 1) => {
                let (a, b) = (a[0], &b[..n]);
                for i in 0..n {
                    y[i] = F::apply(a, b[i]);
                }
            }
            _ => y.fill(F::apply(a[0], b[0])),
        }
    }
}
