//! Cutting elementwise work into pieces for the thread pool, by length alone.
use rayon::prelude::*;

/// Elements of one piece: large enough that handing it out (about 12 us a call) does not show, small enough to share.
pub const GRAIN: usize = 1 << 15;

/// Runs `f(start, piece)` over pieces of `out`, in parallel when there is more than one.
pub fn for_each_piece<T: Send>(out: &mut [T], f: impl Fn(usize, &mut [T]) + Sync) {
    if out.len() <= GRAIN {
        return f(0, out);
    }
    out.par_chunks_mut(GRAIN).enumerate().for_each(|(i, piece)| f(i * GRAIN, piece));
}

/// Runs `f(i)` for every `i < tasks`, in parallel; each task is one piece of work cut by shapes.
pub fn for_each_task(tasks: usize, f: impl Fn(usize) + Sync + Send) {
    if tasks <= 1 {
        return (0..tasks).for_each(f);
    }
    (0..tasks).into_par_iter().with_max_len(1).for_each(f);
}
