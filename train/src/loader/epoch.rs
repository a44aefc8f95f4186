//! Batches of one epoch, loaded ahead and returned in order.
use super::Batch;
use super::job::{BatchJob, LoaderPlan};
use super::sampler::EpochOrder;
use super::workers::WorkerPool;
use crate::Result;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Interval of the checks for interrupts and stalled workers while a batch is not ready.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Batches of an epoch, in order. Dropping it stops the loading of batches that were not taken.
pub struct EpochBatches {
    plan: Arc<LoaderPlan>,
    pool: Option<Arc<WorkerPool>>,
    epoch: u32,
    order: EpochOrder,
    /// Next batch to start.
    next: usize,
    end: usize,
    /// Started batches.
    jobs: VecDeque<Arc<BatchJob>>,
}

impl EpochBatches {
    pub(super) fn new(
        plan: Arc<LoaderPlan>,
        pool: Option<Arc<WorkerPool>>,
        epoch: u32,
        first: usize,
    ) -> Result<EpochBatches> {
        let (order, end) = (plan.sampler.epoch(epoch), plan.sampler.batches());
        let mut batches = EpochBatches { plan, pool, epoch, order, next: first, end, jobs: VecDeque::new() };
        batches.start_jobs()?;
        Ok(batches)
    }

    /// True if the next batch can be taken without waiting; always false without workers.
    pub fn is_ready(&self) -> bool {
        self.pool.is_some() && self.jobs.front().is_some_and(|job| job.is_finished())
    }

    /// Waits for the next batch; `None` at the end of the epoch. While it waits, an error of `check_interrupt` ends the wait. After an
    /// error the epoch cannot be continued.
    pub fn next_batch(&mut self, check_interrupt: &dyn Fn() -> Result<()>) -> Option<Result<Batch>> {
        let batch = match &self.pool {
            None if self.next >= self.end => return None,
            None => self.load_here(check_interrupt),
            Some(pool) => {
                let pool = pool.clone();
                let job = self.jobs.front()?.clone();
                self.wait(&pool, &job, check_interrupt)
            }
        };
        Some(batch)
    }

    /// Loads a batch on this thread.
    fn load_here(&mut self, check_interrupt: &dyn Fn() -> Result<()>) -> Result<Batch> {
        let job = self.plan.job(self.epoch, &self.order, self.next)?;
        for slot in 0..job.len() {
            check_interrupt()?;
            job.load(slot);
        }
        self.next += 1;
        job.wait(Duration::ZERO).expect("all samples are loaded")
    }

    /// Waits for the batch of the first job and starts another one.
    fn wait(
        &mut self,
        pool: &WorkerPool,
        job: &BatchJob,
        check_interrupt: &dyn Fn() -> Result<()>,
    ) -> Result<Batch> {
        loop {
            if let Some(batch) = job.wait(CHECK_INTERVAL) {
                self.jobs.pop_front();
                self.start_jobs()?;
                return batch;
            }
            check_interrupt()?;
            pool.check_stalled(&self.plan)?;
        }
    }

    /// Starts batches until the limit of prefetched batches is reached.
    fn start_jobs(&mut self) -> Result<()> {
        let Some(pool) = &self.pool else { return Ok(()) };
        while self.next < self.end && self.jobs.len() < self.plan.options.prefetch.max(1) {
            let job = Arc::new(self.plan.job(self.epoch, &self.order, self.next)?);
            self.jobs.push_back(job.clone());
            pool.submit(job);
            self.next += 1;
        }
        Ok(())
    }
}

impl Iterator for EpochBatches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        self.next_batch(&|| Ok(()))
    }
}

impl Drop for EpochBatches {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            self.jobs.iter().for_each(|job| pool.cancel(job));
        }
    }
}
