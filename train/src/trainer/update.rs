//! Updates of a trainer: queued on the device, finished when their results are read.
use super::Trainer;
use crate::Result;
use crate::callbacks::{BatchBegin, Callback};
use crate::loader::Batch;
use crate::report::{MemoryMetrics, UpdateMetrics};
use crate::settings::{DistBn, NonfinitePolicy};
use crate::train_step::PendingUpdate;
use std::time::{Duration, Instant};

/// Update on the device whose result is not read yet.
pub(super) struct QueuedUpdate {
    pending: PendingUpdate,
    /// Index of the first batch in the epoch.
    first_batch: usize,
    /// Number of batches.
    batches: usize,
    lr: f64,
}

/// Times of the current epoch in this process.
pub(super) struct EpochClock {
    started: Instant,
    /// Time spent waiting for batches.
    pub waited: Duration,
    /// Batch at which this process entered the epoch.
    first_batch: usize,
}

impl EpochClock {
    pub fn start(first_batch: usize) -> EpochClock {
        EpochClock { started: Instant::now(), waited: Duration::ZERO, first_batch }
    }
}

impl Trainer<'_> {
    /// Queues an update and finishes the one before it. Under `--on-nonfinite skip` it is finished at once, before another one reads its
    /// results.
    pub(super) fn queue_update(
        &mut self,
        inputs: &[Batch],
        first_batch: usize,
        data_wait: Duration,
        queued: &mut Option<QueuedUpdate>,
        clock: &EpochClock,
        callback: &mut dyn Callback,
    ) -> Result<()> {
        let update = self.state.update + u64::from(queued.is_some());
        let (epoch, lr) = (self.state.epoch, self.lr(update));
        callback.on_batch_begin(&BatchBegin {
            epoch,
            update: update + 1,
            batch: first_batch,
            lr,
            batches: inputs,
            data_wait,
        })?;
        if let Some(ema) = self.step.ema_mut() {
            ema.set_decay(ema.options().decay_at(update + 1))?;
        }
        // PyTorch broadcasts the buffers of rank 0 before every forward pass; training reads none of them, so the last one of an epoch
        // has the same result.
        let is_last = first_batch + inputs.len() == self.batches();
        if let Some(run) = self.distributed.filter(|_| is_last) {
            run.distribute_statistics(self.model, DistBn::Broadcast)?;
        }
        if self.options.on_nonfinite == NonfinitePolicy::Skip {
            self.status.nonfinite.keep_buffers(self.model)?;
        }
        let pending = self.step.queue(self.model, self.optimizer, inputs, lr)?;
        let previous = queued.replace(QueuedUpdate { pending, first_batch, batches: inputs.len(), lr });
        if let Some(previous) = previous {
            self.finish_update(previous, clock, callback)?;
        }
        if self.options.on_nonfinite == NonfinitePolicy::Skip {
            self.finish_queued(queued, clock, callback)?;
        }
        // With the update, so that a checkpoint after the last one of an epoch has the statistics of all ranks.
        if is_last { self.distribute_statistics() } else { Ok(()) }
    }

    pub(super) fn finish_queued(
        &mut self,
        queued: &mut Option<QueuedUpdate>,
        clock: &EpochClock,
        callback: &mut dyn Callback,
    ) -> Result<()> {
        queued.take().map_or(Ok(()), |update| self.finish_update(update, clock, callback))
    }

    /// Waits for an update, adds its loss to the state and reports it.
    pub(super) fn finish_update(
        &mut self,
        update: QueuedUpdate,
        clock: &EpochClock,
        callback: &mut dyn Callback,
    ) -> Result<()> {
        let result = update.pending.wait()?;
        // After a failed reduction the device computes with undefined values, which must not reach a checkpoint.
        self.distributed.map_or(Ok(()), |run| run.collective.check())?;
        self.status.nonfinite.last_update = Some((self.state.epoch, update.first_batch));
        let loss = self.checked_loss(&result, callback)?;
        let state = &mut self.state;
        match loss {
            Some(loss) => state.loss_sum += loss * update.batches as f64,
            None => state.uncounted += update.batches,
        }
        state.batch += update.batches;
        state.update += 1;
        if let Some(why) = self.step.capture_error().filter(|_| !self.status.capture_error_reported) {
            callback.on_message(&format!("updates are not captured as a CUDA graph: {why}"))?;
            self.status.capture_error_reported = true;
        }
        if let Some(warning) = self.step.take_warning() {
            callback.on_message(&warning)?;
        }
        let has_loss_scale = self.step.options().precision.needs_loss_scaling();
        let elapsed = clock.started.elapsed().as_secs_f64();
        let samples = (self.state.batch - clock.first_batch) * self.train.options().batch_size;
        callback.on_batch_end(&UpdateMetrics {
            epoch: self.state.epoch,
            epochs: self.schedule.total_epochs(),
            batch: self.state.batch,
            batches: self.batches(),
            update: self.state.update,
            update_of_epoch: self.state.batch.div_ceil(self.options.grad_accum_steps) as u64,
            updates_per_epoch: self.updates_per_epoch(),
            loss: self.state.mean_loss(),
            lr: update.lr,
            grad_norm: result.stats.and_then(|stats| stats.grad_norm),
            loss_scale: result.stats.filter(|_| has_loss_scale).map(|stats| stats.loss_scale),
            images_per_second: samples as f64 / elapsed,
            data_wait: clock.waited.as_secs_f64() / elapsed,
            memory: MemoryMetrics::of(self.device),
        })
    }
}
