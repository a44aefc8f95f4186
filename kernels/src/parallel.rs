//! Compilation of several sources on several threads.
use crate::{KernelError, KernelSource, KernelUnit, compile, unit_image};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// Compiles sources for a device of that compute capability into the cache, on all CPUs. Returns the sizes of the images in bytes, or the
/// first error.
pub fn compile_all(sources: &[KernelSource], capability: (u32, u32)) -> Result<Vec<usize>, KernelError> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = vec![];
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(source) = sources.get(i) else { return done };
            done.push((i, compile(*source, capability).map(|image| image.len())));
        }
    };
    let mut results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads()).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Compilation of units on other threads, while this one goes on: a launch waits for its own unit only. Dropping it waits for the units in
/// progress and omits the others.
pub struct BackgroundCompilation {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl BackgroundCompilation {
    /// Starts the compilation for devices of that compute capability. A unit that does not compile is an error of the first launch of its
    /// kernels.
    pub fn start(units: Vec<&'static KernelUnit>, capability: (u32, u32)) -> BackgroundCompilation {
        let (stop, next, units) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(units));
        let worker = |_| {
            let (stop, next, units) = (stop.clone(), next.clone(), units.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    drop(unit_image(unit, capability));
                }
            })
        };
        let workers = (0..threads()).map(worker).collect();
        BackgroundCompilation { stop, workers }
    }
}

impl Drop for BackgroundCompilation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            // A worker that panicked has compiled nothing more.
            let _ = worker.join();
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}
