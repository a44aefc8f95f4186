//! Per-thread pool of temporary buffers, reused between calls: packed weights, padded bands, partial sums.
//!
//! A fresh allocation of this size costs more in page faults than the kernel that uses it, and a reused one is warm in cache. Buffers
//! are 64-byte aligned, for aligned stores of whole registers and cache lines.
use std::cell::RefCell;

/// One cache line: the unit of allocation, which determines the alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: plain bytes without padding or invalid bit patterns.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

thread_local! {
    static POOL: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with a buffer of `len` elements with arbitrary content, aligned to 64 bytes, from this thread's pool.
///
/// Calls may nest; each gets its own buffer. The pool keeps its buffers until the thread ends.
pub fn with<T: bytemuck::Pod, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
    let mut buffer = take(lines);
    let all: &mut [T] = bytemuck::cast_slice_mut(&mut buffer);
    let result = f(&mut all[..len]);
    POOL.with_borrow_mut(|pool| pool.push(buffer));
    result
}

/// Smallest free buffer of at least `lines` lines. If there is none, a new one replaces the largest free buffer.
fn take(lines: usize) -> Vec<Line> {
    POOL.with_borrow_mut(|pool| {
        let fitting = (0..pool.len()).filter(|&i| pool[i].len() >= lines).min_by_key(|&i| pool[i].len());
        if let Some(i) = fitting {
            return pool.swap_remove(i);
        }
        if let Some(i) = (0..pool.len()).max_by_key(|&i| pool[i].len()) {
            drop(pool.swap_remove(i));
        }
        vec![bytemuck::Zeroable::zeroed(); lines]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_buffers_are_disjoint_aligned_and_reused() {
        let first = with(100, |outer: &mut [f32]| {
            outer.fill(1.0);
            with(200, |inner: &mut [f32]| {
                inner.fill(2.0);
                assert_eq!(inner.as_ptr() as usize % 64, 0);
            });
            assert!(outer.iter().all(|v| *v == 1.0));
            outer.as_ptr() as usize
        });
        assert_eq!(first % 64, 0);
        with(90, |again: &mut [f32]| assert_eq!(again.as_ptr() as usize, first));
        with(1000, |large: &mut [f64]| assert_eq!(large.len(), 1000));
        with(0, |empty: &mut [f32]| assert!(empty.is_empty()));
    }
}
