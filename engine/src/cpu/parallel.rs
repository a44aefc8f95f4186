//! Splitting of elementwise work into tasks of the thread pool, by length alone.
use rayon::prelude::*;

/// Elements per piece: large enough to hide the cost of scheduling (about 12 us per call), small enough to balance over threads.
pub const GRAIN: usize = 1 << 15;

/// Runs `f(start, piece)` over pieces of `out`, in parallel if there is more than one.
pub fn for_each_piece<T: Send>(out: &mut [T], f: impl Fn(usize, &mut [T]) + Sync) {
    let len = out.len();
    if len <= GRAIN {
        return f(0, out);
    }
    let out = DisjointSlice::new(out);
    for_each_task(len.div_ceil(GRAIN), |i| {
        // SAFETY: pieces do not overlap.
        f(i * GRAIN, unsafe { out.slice(i * GRAIN, GRAIN.min(len - i * GRAIN)) });
    });
}

/// Runs `f(i)` for every `i < tasks` in parallel.
pub fn for_each_task(tasks: usize, f: impl Fn(usize) + Sync) {
    if tasks <= 1 {
        return (0..tasks).for_each(f);
    }
    in_parallel(tasks, &f);
}

/// Not generic, so that all kernels share one instance of the thread pool's code.
fn in_parallel(tasks: usize, f: &(dyn Fn(usize) + Sync)) {
    (0..tasks).into_par_iter().with_max_len(1).for_each(f);
}

/// Mutable slice whose disjoint parts are written by parallel tasks.
pub struct DisjointSlice<T>(*mut T, usize);
// SAFETY: access is through `slice`, whose callers guarantee disjoint ranges.
unsafe impl<T: Send> Send for DisjointSlice<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointSlice<T> {}

impl<T> DisjointSlice<T> {
    /// Wraps a slice for one parallel call.
    pub fn new(slice: &mut [T]) -> DisjointSlice<T> {
        DisjointSlice(slice.as_mut_ptr(), slice.len())
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// The wrapped slice must be alive, and no other task may hold an overlapping part.
    #[allow(clippy::mut_from_ref, reason = "the point of the type: disjoint parts of one slice")]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start + len <= self.1, "{start}+{len} of {}", self.1);
        std::slice::from_raw_parts_mut(self.0.add(start), len)
    }

    /// Pointer to the first element, for kernels that compute disjoint addresses themselves.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.0
    }
}
