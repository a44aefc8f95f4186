//! Copy of a rectangular block between dense tensors.
use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_task};
use crate::{Element, Shape};

/// Copies a block of extents `block` from `x` at `from` to `y` at `to`, row by row.
pub fn copy_block<T: Element>(
    x: &[T],
    xs: &Shape,
    from: &[usize],
    y: &mut [T],
    ys: &Shape,
    to: &[usize],
    block: &Shape,
) {
    if block.numel() == 0 {
        return;
    }
    let rank = block.rank();
    // Trailing axes that the block covers entirely are merged into the row.
    let mut split = rank;
    let mut row = 1;
    while split > 0 {
        split -= 1;
        row *= block[split];
        if block[split] != xs[split] || block[split] != ys[split] {
            break;
        }
    }
    let (x_steps, y_steps) = (xs.strides(), ys.strides());
    let base = |steps: &[usize], at: &[usize]| -> usize { (0..rank).map(|a| at[a] * steps[a]).sum() };
    let (x0, y0) = (base(&x_steps, from), base(&y_steps, to));
    let rows = block.numel() / row;
    let per_task = (GRAIN / row).max(1);
    let out = DisjointSlice::new(y);
    for_each_task(rows.div_ceil(per_task), |task| {
        for r in task * per_task..rows.min((task + 1) * per_task) {
            let (mut rest, mut i, mut j) = (r, x0, y0);
            for a in (0..split).rev() {
                i += rest % block[a] * x_steps[a];
                j += rest % block[a] * y_steps[a];
                rest /= block[a];
            }
            // SAFETY: rows of a block do not overlap, and each belongs to one task.
            unsafe { out.slice(j, row) }.copy_from_slice(&x[i..i + row]);
        }
    });
}
