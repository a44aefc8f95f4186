//! Cutting elementwise work into pieces for the thread pool, by length alone.
use rayon::prelude::*;

/// Elements of one piece: large enough that handing it out (about 12 us a call) does not show, small enough to share.
pub const GRAIN: usize = 1 << 15;

/// Runs `f(start, piece)` over pieces of `out`, in parallel when there is more than one.
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

/// Runs `f(i)` for every `i < tasks`, in parallel; each task is one piece of work cut by shapes.
pub fn for_each_task(tasks: usize, f: impl Fn(usize) + Sync) {
    if tasks <= 1 {
        return (0..tasks).for_each(f);
    }
    in_parallel(tasks, &f);
}

/// Not generic: one copy of the thread pool's machinery for all kernels, rather than one each.
fn in_parallel(tasks: usize, f: &(dyn Fn(usize) + Sync)) {
    (0..tasks).into_par_iter().with_max_len(1).for_each(f);
}

/// A mutable slice that tasks write disjoint parts of.
pub struct DisjointSlice<T>(*mut T, usize);
// SAFETY: access goes through `slice`, whose callers promise disjoint ranges.
unsafe impl<T: Send> Send for DisjointSlice<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointSlice<T> {}

impl<T> DisjointSlice<T> {
    /// Wraps a slice for the tasks of one parallel call.
    pub fn new(slice: &mut [T]) -> DisjointSlice<T> {
        DisjointSlice(slice.as_mut_ptr(), slice.len())
    }

    /// `len` elements from `start`.
    ///
    /// # Safety
    /// The wrapped slice is still alive, and no other task holds an overlapping part.
    #[allow(clippy::mut_from_ref, reason = "the point of the type: disjoint parts of one slice")]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start + len <= self.1, "{start}+{len} of {}", self.1);
        std::slice::from_raw_parts_mut(self.0.add(start), len)
    }

    /// The first element, for kernels that compute their own disjoint addresses.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.0
    }
}
