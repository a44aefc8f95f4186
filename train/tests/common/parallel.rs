//! Cases of a sweep on every core.
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `work` with the number of each case, on as many threads as there are cores. A panic ends the sweep.
pub fn in_parallel(cases: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= cases {
                return;
            }
            // The other threads take no more cases after a failure.
            let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(number))).err();
            if let Some(panic) = failed {
                next.store(cases, Ordering::Relaxed);
                std::panic::resume_unwind(panic);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(run))));
}
