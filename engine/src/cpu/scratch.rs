//! Per-thread pool of temporary buffers, reused between calls: packed weights, padded bands, partial sums.
//!
//! A fresh allocation of this size costs more in page faults than the kernel that uses it, and a reused one is warm in cache. Buffers
//! are 64-byte aligned, for aligned stores of whole registers and cache lines.
use super::memory::{ALIGN, HUGE_PAGE, SystemBlock};
use std::cell::RefCell;

/// Size from which a buffer consists of whole huge pages. A kernel writes to dozens of planes of a buffer at once, and the pages of all of
/// them must be in the TLB.
const MIN_HUGE: usize = 128 << 10;

thread_local! {
    static POOL: RefCell<Vec<SystemBlock>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with a buffer of `len` elements with arbitrary content, aligned to 64 bytes, from this thread's pool.
///
/// Calls may nest; each gets its own buffer. The pool keeps its buffers until the thread ends.
///
/// # Panics
/// If the system has no memory.
pub fn with<T: bytemuck::Pod, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let bytes = len * size_of::<T>();
    let mut buffer = take(bytes);
    let result = f(bytemuck::cast_slice_mut(&mut buffer.as_mut_slice()[..bytes]));
    POOL.with_borrow_mut(|pool| pool.push(buffer));
    result
}

/// Smallest free buffer of at least `bytes` bytes. If there is none, a new one replaces the largest free buffer.
fn take(bytes: usize) -> SystemBlock {
    POOL.with_borrow_mut(|pool| {
        let fitting = (0..pool.len()).filter(|&i| pool[i].len() >= bytes).min_by_key(|&i| pool[i].len());
        if let Some(i) = fitting {
            return pool.swap_remove(i);
        }
        if let Some(i) = (0..pool.len()).max_by_key(|&i| pool[i].len()) {
            drop(pool.swap_remove(i));
        }
        let unit = if bytes >= MIN_HUGE { HUGE_PAGE } else { ALIGN };
        SystemBlock::zeroed(bytes.max(1).next_multiple_of(unit)).expect("the system has memory for scratch")
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
