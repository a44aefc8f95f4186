//! Worker threads of a loader. They are the loader's own, not those of the kernels, and stay alive between epochs.
use super::job::{BatchJob, LoaderPlan};
use crate::error::ErrorKind;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Limit of the wait for samples in progress when the workers end. A stalled worker is left behind, as a thread cannot be stopped.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// Worker threads with a queue of batches. Samples are loaded in the order of the queue, so that all workers complete the first batch
/// before they go on with the next.
pub(super) struct WorkerPool {
    shared: Arc<SharedQueue>,
    timeout: Duration,
}

#[derive(Default)]
struct SharedQueue {
    state: Mutex<QueueState>,
    /// Notified when there is work, and when the pool closes.
    work: Condvar,
    /// Notified when a worker ends.
    ended: Condvar,
}

#[derive(Default)]
struct QueueState {
    /// Batches with samples that no worker has started, and the first of these samples.
    queue: VecDeque<(Arc<BatchJob>, usize)>,
    /// For each worker, the sample in progress and its start.
    in_progress: Vec<Option<(usize, Instant)>>,
    alive: usize,
    closed: bool,
}

impl WorkerPool {
    /// Starts the threads.
    pub(super) fn start(workers: usize, timeout: Duration) -> Result<WorkerPool> {
        let shared = Arc::new(SharedQueue::default());
        let pool = WorkerPool { shared: shared.clone(), timeout };
        shared.lock().in_progress = vec![None; workers];
        for worker in 0..workers {
            let shared = shared.clone();
            shared.lock().alive += 1;
            let started = thread::Builder::new().name(format!("fornax-loader-{worker}")).spawn({
                let shared = shared.clone();
                move || shared.work(worker)
            });
            if let Err(error) = started {
                shared.lock().alive -= 1;
                return Err(Error::new(ErrorKind::Memory, "a loader worker cannot be started")
                    .because(error)
                    .remedy("choose fewer with --workers"));
            }
        }
        Ok(pool)
    }

    /// Appends a batch to the queue.
    pub(super) fn submit(&self, job: Arc<BatchJob>) {
        if job.len() > 0 {
            self.shared.lock().queue.push_back((job, 0));
            self.shared.work.notify_all();
        }
    }

    /// Removes a batch from the queue and stops its loading.
    pub(super) fn cancel(&self, job: &Arc<BatchJob>) {
        job.cancel();
        self.shared.lock().queue.retain(|(queued, _)| !Arc::ptr_eq(queued, job));
    }

    /// Returns an error if a sample has taken longer than the timeout.
    pub(super) fn check_stalled(&self, plan: &LoaderPlan) -> Result<()> {
        let oldest = self.shared.lock().in_progress.iter().flatten().min_by_key(|(_, start)| *start).copied();
        match oldest {
            Some((sample, start)) if start.elapsed() > self.timeout => {
                Err(Error::data("a loader worker has stalled")
                    .at(plan.samples.location(sample))
                    .because(format!("the sample is not loaded after {:.0} s", self.timeout.as_secs_f64()))
                    .remedy("check the disk or network share; allow more time with --loader-timeout"))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.queue.clear();
        self.shared.work.notify_all();
        let ended = &self.shared.ended;
        drop(ended.wait_timeout_while(state, SHUTDOWN_LIMIT, |state| state.alive > 0));
    }
}

impl SharedQueue {
    /// Loads samples until the pool closes.
    fn work(&self, worker: usize) {
        while let Some((job, slot)) = self.next(worker) {
            job.load(slot);
            // The last reference to a batch may be this one: its memory is released before the pool can close.
            drop(job);
            self.lock().in_progress[worker] = None;
        }
        self.lock().alive -= 1;
        self.ended.notify_all();
    }

    /// Waits for a sample to load; `None` when the pool closes.
    fn next(&self, worker: usize) -> Option<(Arc<BatchJob>, usize)> {
        let mut state = self.work.wait_while(self.lock(), |state| state.queue.is_empty() && !state.closed);
        let state = state.as_mut().unwrap_or_else(|e| e.get_mut());
        let (job, next) = state.queue.front_mut()?;
        let (job, slot) = (job.clone(), *next);
        *next += 1;
        if *next == job.len() {
            state.queue.pop_front();
        }
        state.in_progress[worker] = Some((job.sample_index(slot), Instant::now()));
        Some((job, slot))
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}
