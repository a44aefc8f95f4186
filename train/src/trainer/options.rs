//! Options and signals of a trainer.
use crate::error::Signal;
use crate::settings::{DistBn, EvalMetric, NonfinitePolicy};
use std::time::Duration;

/// Options of a trainer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainerOptions {
    /// Gradient accumulation steps: batches per update.
    pub grad_accum_steps: usize,
    /// Batches per epoch; `None` for all.
    pub batches_per_epoch: Option<usize>,
    /// Epochs between evaluations; the last epoch is always evaluated.
    pub val_interval: u32,
    /// Updates of an epoch between recovery checkpoints; 0 for none.
    pub recovery_interval: u64,
    /// Metric that ranks epochs.
    pub eval_metric: EvalMetric,
    /// Policy for a loss or gradients that are not finite.
    pub on_nonfinite: NonfinitePolicy,
    /// Distribution of running statistics over the ranks at the end of an epoch.
    pub dist_bn: DistBn,
    /// Longest wait for space on a full disk, or for a removed folder, when the last state of a run is saved.
    pub disk_wait: Duration,
}

/// Default of [`TrainerOptions::disk_wait`].
pub const DISK_WAIT: Duration = Duration::from_secs(600);

impl Default for TrainerOptions {
    /// One batch per update, an evaluation after every epoch, ranked by top-1 accuracy.
    fn default() -> TrainerOptions {
        TrainerOptions {
            grad_accum_steps: 1,
            batches_per_epoch: None,
            val_interval: 1,
            recovery_interval: 0,
            eval_metric: EvalMetric::Top1,
            on_nonfinite: NonfinitePolicy::Stop,
            dist_bn: DistBn::default(),
            disk_wait: DISK_WAIT,
        }
    }
}

/// Signals that a run polls after every update and every validation batch, and while it waits for data.
pub trait RunSignals {
    /// The signal that interrupts the run, if one arrived.
    fn interrupt(&self) -> Option<Signal> {
        None
    }

    /// True once after a request for a checkpoint.
    fn take_save_request(&self) -> bool {
        false
    }
}

/// No signals.
impl RunSignals for () {}
