//! Warm-up of a run on several CUDA devices: all ranks use the same convolution plans from the first update on.
use super::Trainer;
use crate::Result;

impl Trainer<'_> {
    /// Runs batches of every shape through the model, without effect on it, so that every rank times its convolution plans, and makes the
    /// ranks use the same ones ([`share_conv_plans`](crate::distributed::DistributedRun::share_conv_plans)). Without ranks it does nothing.
    pub fn share_conv_plans(&self) -> Result<()> {
        let Some(run) = self.distributed else { return Ok(()) };
        // All training batches have one shape.
        let next = self.state.batch.min(self.train.batches().saturating_sub(1));
        if self.train.batches() > 0 {
            let batch = self.take_batch(&mut self.training_batches(next)?)?;
            self.step.warm_up(self.model, self.optimizer, &batch)?;
        }
        self.evaluator().warm_up(self.model, &|| self.check_wait())?;
        run.share_conv_plans()
    }
}
