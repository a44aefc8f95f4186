//! Broadcast copy.
use crate::Element;
use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_task};
use crate::ops::elementwise::cpu::binary::BroadcastLayout;

/// Copies `x` to `y` with broadcasting. `x` is the first operand of `layout`.
pub fn forward<T: Element>(layout: &BroadcastLayout, x: &[T], y: &mut [T]) {
    let inner = layout.inner();
    let rows = y.len() / inner.max(1);
    let per_task = (GRAIN / inner.max(1)).max(1);
    let out = DisjointSlice::new(y);
    for_each_task(rows.div_ceil(per_task), |task| {
        for r in task * per_task..rows.min((task + 1) * per_task) {
            let start = layout.start(r).0;
            // SAFETY: each row belongs to one task.
            let y = unsafe { out.slice(r * inner, inner) };
            match layout.steps().0 {
                0 => y.fill(x[start]),
                _ => y.copy_from_slice(&x[start..start + inner]),
            }
        }
    });
}
