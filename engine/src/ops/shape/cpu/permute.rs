//! Permutation of axes.
use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_task};
use crate::{Element, Shape};

/// Permutes the axes of `x` of shape `from`: axis `a` of `y` is axis `axes[a]` of `x`.
pub fn permute<T: Element>(x: &[T], from: &Shape, axes: &[usize], y: &mut [T]) {
    let strides = from.strides();
    let extents: Vec<usize> = axes.iter().map(|a| from.dims()[*a]).collect();
    let steps: Vec<usize> = axes.iter().map(|a| strides[*a]).collect();
    let Some((&inner, outer)) = extents.split_last() else {
        return y.copy_from_slice(x);
    };
    let inner_step = steps[steps.len() - 1];
    let rows = y.len() / inner.max(1);
    let rows_per_task = (GRAIN / inner.max(1)).max(1);
    let out = DisjointSlice::new(y);
    for_each_task(rows.div_ceil(rows_per_task), |task| {
        for row in task * rows_per_task..rows.min((task + 1) * rows_per_task) {
            let (mut rest, mut source) = (row, 0);
            for axis in (0..outer.len()).rev() {
                source += rest % outer[axis] * steps[axis];
                rest /= outer[axis];
            }
            // SAFETY: each row of the output belongs to one task.
            let y = unsafe { out.slice(row * inner, inner) };
            if inner_step == 1 {
                y.copy_from_slice(&x[source..source + inner]);
            } else {
                for (i, y) in y.iter_mut().enumerate() {
                    *y = x[source + i * inner_step];
                }
            }
        }
    });
}
