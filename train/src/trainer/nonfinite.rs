//! Policies for a loss, gradients or weights that are not finite: stop, skip the update, or return to the last checkpoint.
use super::Trainer;
use crate::callbacks::{Callback, Rollback};
use crate::error::ErrorKind;
use crate::settings::NonfinitePolicy;
use crate::train_step::UpdateResult;
use crate::{Error, Result};
use fornax_engine::Tensor;
use fornax_nn::{Module, StateKind, state_entries};

/// Successive updates that `--on-nonfinite skip` skips at most.
const MAX_SKIPS: u64 = 32;
/// Returns to a checkpoint in a run under `--on-nonfinite rollback` at most.
const MAX_ROLLBACKS: usize = 10;

/// What this process remembers of its updates.
#[derive(Default)]
pub(super) struct NonfiniteStatus {
    /// Loss scale after the last update.
    loss_scale: Option<f32>,
    /// Epoch and first batch of the last finished update.
    pub last_update: Option<(u32, usize)>,
    /// The model's buffers, such as running statistics, each with its value before the last update.
    buffers: Vec<(Tensor, Tensor)>,
}

impl NonfiniteStatus {
    /// Copies the model's buffers.
    pub fn keep_buffers(&mut self, model: &dyn Module) -> Result<()> {
        if self.buffers.is_empty() {
            let buffers = state_entries(model).into_iter().filter(|entry| entry.kind == StateKind::Buffer);
            let copied = buffers.map(|entry| Ok((entry.tensor.copy()?, entry.tensor)));
            let copied: fornax_engine::Result<Vec<(Tensor, Tensor)>> = copied.collect();
            self.buffers = copied?.into_iter().map(|(copy, buffer)| (buffer, copy)).collect();
        } else {
            self.buffers.iter().try_for_each(|(buffer, copy)| copy.copy_from(buffer))?;
        }
        Ok(())
    }

    /// Writes the copies back.
    pub fn restore_buffers(&self) -> Result<()> {
        Ok(self.buffers.iter().try_for_each(|(buffer, copy)| buffer.copy_from(copy))?)
    }
}

impl Trainer<'_> {
    /// Returns to the last checkpoint, and leaves out the update that failed. Errors if there is no checkpoint or too many updates failed.
    pub(super) fn roll_back(&mut self, error: Error, callback: &mut dyn Callback) -> Result<()> {
        // Rank 0 has the checkpoints.
        let checkpoint = callback.last_checkpoint()?;
        let saved = checkpoint.as_ref().map(|checkpoint| checkpoint.header.state.clone());
        let saved = match self.distributed {
            Some(run) => run.share("the last checkpoint", (run.rank() == 0).then_some(&saved))?,
            None => saved,
        };
        let Some(saved) = saved else { return Err(error) };
        let mut record = std::mem::take(&mut self.state.nonfinite);
        let Some(failed) =
            self.status.nonfinite.last_update.filter(|_| record.left_out.len() < MAX_ROLLBACKS)
        else {
            return Err(error);
        };
        if let Some(checkpoint) = checkpoint {
            checkpoint.restore(self.model, Some(self.optimizer), self.step.ema())?;
        }
        if let Some(run) = self.distributed {
            run.replicate(crate::checkpoint::state_tensors(
                self.model,
                Some(self.optimizer),
                self.step.ema(),
            ))?;
        }
        // Captured updates read low-precision copies of the weights that the restored weights do not have.
        self.step.forget_captured();
        self.status.nonfinite.loss_scale = None;
        record.left_out.push(failed);
        let from_update = self.state.update;
        self.state = saved;
        self.state.nonfinite.left_out = record.left_out;
        let (epoch, batch) = failed;
        let state = &self.state;
        callback.on_rollback(&Rollback { reason: error.what(), from_update, left_out: failed, state })?;
        callback.on_message(&format!(
            "{}; training returns to update {} and leaves out the update at batch {batch} of epoch {}",
            error.what(),
            self.state.update,
            epoch
        ))
    }

    /// Counts an update of `batches` batches as done without doing it: the learning rates of later updates stay the same.
    pub(super) fn leave_out(&mut self, batches: usize) {
        let state = &mut self.state;
        state.uncounted += batches;
        state.batch += batches;
        state.update += 1;
    }

    /// The loss of an update. A non-finite loss ends the run, unless the policy is to skip the update, or a smaller loss scale may cure the
    /// overflow: then there is no loss to count.
    pub(super) fn checked_loss(
        &mut self,
        result: &UpdateResult,
        callback: &mut dyn Callback,
    ) -> Result<Option<f64>> {
        if self.options.on_nonfinite == NonfinitePolicy::Skip {
            return Ok((!self.skip_nonfinite(result, callback)?).then_some(result.loss));
        }
        let Some((stats, scaling)) = result.stats.zip(self.optimizer.gradient_rule().scaling) else {
            self.check_finite(result.loss, "training")?;
            return Ok(Some(result.loss));
        };
        let is_constant = scaling.backoff_factor == 1.0;
        let was_lowest =
            is_constant || self.status.nonfinite.loss_scale.is_some_and(|scale| scale <= scaling.min_scale);
        self.status.nonfinite.loss_scale = Some(stats.loss_scale);
        if stats.skipped {
            self.state.nonfinite.skipped += 1;
            self.state.nonfinite.successive += 1;
        } else {
            self.state.nonfinite.successive = 0;
        }
        if stats.skipped && was_lowest {
            let at = if is_constant { "" } else { " at the lowest loss scale" };
            return Err(self.nonfinite_error(format!("the gradients are not finite{at}")));
        }
        if stats.skipped && !result.loss.is_finite() {
            return Ok(None);
        }
        self.check_finite(result.loss, "training")?;
        Ok(Some(result.loss))
    }

    /// Under `--on-nonfinite skip`: undoes an update whose loss or gradients are not finite and returns true, or updates the EMA.
    fn skip_nonfinite(&mut self, result: &UpdateResult, callback: &mut dyn Callback) -> Result<bool> {
        let skipped = result.stats.is_some_and(|stats| stats.skipped);
        if !skipped && result.loss.is_finite() {
            self.state.nonfinite.successive = 0;
            self.step.update_ema()?;
            return Ok(false);
        }
        self.status.nonfinite.restore_buffers()?;
        let record = &mut self.state.nonfinite;
        record.skipped += 1;
        record.successive += 1;
        if record.successive > MAX_SKIPS {
            let what = format!("{} successive updates were not finite", record.successive);
            return Err(self.nonfinite_error(what));
        }
        let which = if result.loss.is_finite() { "gradients are" } else { "loss is" };
        let update = self.state.update + 1;
        callback.on_message(&format!("update {update} is skipped: its {which} not finite"))?;
        Ok(true)
    }

    /// Error about a value that is not finite.
    pub(super) fn nonfinite_error(&self, what: String) -> Error {
        let location = format!("epoch {}, after {} updates", self.state.epoch, self.state.update);
        Error::new(ErrorKind::NonFinite, what).at(location).remedy(
            "lower --lr or raise --warmup-epochs; the last checkpoint was saved before the loss became non-finite",
        )
    }
}
