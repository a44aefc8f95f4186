//! Callbacks of a training run: the [`Callback`] trait and the built-in callbacks.
//!
//! Hooks are called in this order; each has an empty default.
//!
//! ```text
//! on_train_begin
//!   per epoch: on_epoch_begin
//!                per update: on_batch_begin, on_batch_end
//!              on_train_summary, on_save before an evaluation
//!              per evaluated weights (EMA, then the model): on_test_begin, on_test_end, on_test_summary
//!              on_epoch_end
//! on_train_end
//! ```
//!
//! `on_rollback` is called between the last update of an epoch and its next `on_epoch_begin`, under `--on-nonfinite rollback`.
//! `on_save` is called whenever the state of the run is to be saved, `on_message` with messages for the user.
mod early_stopping;
mod files;
mod history;
mod list;
mod model_checkpoint;

pub use early_stopping::EarlyStopping;
pub use files::{CsvLogger, JsonlLogger};
pub use history::{
    AccuracyRecorder, ConfusionMatrixRecorder, History, LossRecorder, LrRecorder, MultiLossRecorder,
};
pub use list::CallbackList;
pub use model_checkpoint::ModelCheckpoint;

use crate::checkpoint::Checkpoint;
use crate::data::header_check::HeaderCheckProgress;
use crate::ema::Ema;
use crate::experiment::RunPlan;
use crate::loader::Batch;
use crate::optim::Optimizer;
use crate::report::{EpochMetrics, UpdateMetrics};
use crate::trainer::{Evaluation, TrainerState};
use crate::{Error, Result};
use fornax_nn::Module;
use std::time::Duration;

/// Callback of a training run. An error of a hook ends the run; a full disk is only reported (see [`CallbackList`]).
pub trait Callback {
    /// Called before the first update of this process.
    fn on_train_begin(&mut self, _event: &TrainBegin) -> Result<()> {
        Ok(())
    }

    /// Called after the last epoch, or when a callback, a signal or an error ends the run.
    fn on_train_end(&mut self, _event: &TrainEnd) -> Result<()> {
        Ok(())
    }

    /// Called before the first update of an epoch, or of the rest of an epoch after resuming.
    fn on_epoch_begin(&mut self, _event: &EpochBegin) -> Result<()> {
        Ok(())
    }

    /// Called after an epoch and its evaluation.
    fn on_epoch_end(&mut self, _event: &EpochEnd) -> Result<()> {
        Ok(())
    }

    /// Called before an update, with its batches.
    fn on_batch_begin(&mut self, _event: &BatchBegin) -> Result<()> {
        Ok(())
    }

    /// Called after an update. The next update may already be queued on the device.
    fn on_batch_end(&mut self, _metrics: &UpdateMetrics) -> Result<()> {
        Ok(())
    }

    /// Called after the updates of an epoch, before its evaluation.
    fn on_train_summary(&mut self, _summary: &TrainSummary) -> Result<()> {
        Ok(())
    }

    /// Called before an evaluation.
    fn on_test_begin(&mut self, _event: &TestBegin) -> Result<()> {
        Ok(())
    }

    /// Called after the last batch of an evaluation.
    fn on_test_end(&mut self, _event: &TestBegin) -> Result<()> {
        Ok(())
    }

    /// Called with the results of an evaluation.
    fn on_test_summary(&mut self, _summary: &TestSummary) -> Result<()> {
        Ok(())
    }

    /// Called when `--on-nonfinite rollback` returns to a checkpoint: the metrics of later updates and epochs are no longer part of the run.
    fn on_rollback(&mut self, _event: &Rollback) -> Result<()> {
        Ok(())
    }

    /// Called with the plan of the run, before anything else.
    fn on_plan(&mut self, plan: &RunPlan) -> Result<()> {
        self.on_message(&plan.to_string())
    }

    /// Called several times a second while the headers of image files are checked, before the first update.
    fn on_header_check(&mut self, _progress: &HeaderCheckProgress) -> Result<()> {
        Ok(())
    }

    /// Called with a message for the user.
    fn on_message(&mut self, _text: &str) -> Result<()> {
        Ok(())
    }

    /// Message for the user since the last call, if there is one; asked after every hook, and passed to `on_message` of all callbacks.
    fn take_message(&mut self) -> Option<String> {
        None
    }

    /// Called when the state of the run is to be saved: at its start, before every evaluation, after every epoch, at recovery intervals,
    /// on request, and when a signal interrupts it.
    fn on_save(&mut self, _snapshot: &RunSnapshot, _reason: SaveReason) -> Result<()> {
        Ok(())
    }

    /// The last checkpoint that this callback saved, to which `--on-nonfinite rollback` returns.
    fn last_checkpoint(&self) -> Result<Option<Checkpoint>> {
        Ok(None)
    }

    /// Reason to end the run before its last epoch, if there is one; asked after every update and every epoch.
    fn stop_reason(&self) -> Option<String> {
        None
    }
}

/// Start of a run.
#[derive(Clone, Copy)]
pub struct TrainBegin<'a> {
    /// Total epochs.
    pub epochs: u32,
    /// Batches per epoch.
    pub batches: usize,
    /// Updates per epoch.
    pub updates_per_epoch: u64,
    /// Progress of the run, not initial after resuming.
    pub state: &'a TrainerState,
    /// The model.
    pub model: &'a dyn Module,
}

/// End of a run.
#[derive(Clone, Copy)]
pub struct TrainEnd<'a> {
    /// Progress of the run.
    pub state: &'a TrainerState,
    /// The last evaluation of this process, if there was one.
    pub evaluation: Option<&'a Evaluation>,
    /// Reason of a callback for ending the run before its last epoch.
    pub stop_reason: Option<&'a str>,
    /// Error or signal that ends the run.
    pub error: Option<&'a Error>,
}

impl TrainEnd<'_> {
    /// True if another rank was lost: the process is about to be ended by its launcher, so there is no time for reports.
    pub fn is_in_haste(&self) -> bool {
        self.error.is_some_and(|error| error.kind() == crate::error::ErrorKind::Peer)
    }
}

/// Start of an epoch.
#[derive(Clone, Copy, Debug)]
pub struct EpochBegin {
    /// Epoch, counted from 0.
    pub epoch: u32,
    /// Total epochs.
    pub epochs: u32,
    /// First batch, not 0 after resuming within the epoch.
    pub first_batch: usize,
    /// Batches per epoch.
    pub batches: usize,
}

/// End of an epoch.
#[derive(Clone, Copy)]
pub struct EpochEnd<'a> {
    /// Epoch, counted from 0.
    pub epoch: u32,
    /// Metrics; `None` if the epoch was not evaluated (`--val-interval`).
    pub metrics: Option<&'a EpochMetrics>,
    /// Evaluation behind the metrics.
    pub evaluation: Option<&'a Evaluation>,
    /// True if the epoch is the best so far.
    pub best: bool,
    /// Progress of the run, this epoch included.
    pub state: &'a TrainerState,
    /// The model.
    pub model: &'a dyn Module,
    /// The EMA of the model, if there is one.
    pub ema: Option<&'a Ema>,
}

/// Start of an update.
#[derive(Clone, Copy)]
pub struct BatchBegin<'a> {
    /// Epoch, counted from 0.
    pub epoch: u32,
    /// Number of the update, counted from 1 over the run.
    pub update: u64,
    /// Index of the first batch in the epoch.
    pub batch: usize,
    /// Learning rate.
    pub lr: f64,
    /// The batches of the update, on the model's device. Images of u8 are mixed, normalised and erased in the update.
    pub batches: &'a [Batch],
    /// Time that the run has waited for the batches.
    pub data_wait: Duration,
}

/// Training metrics of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainSummary {
    /// Epoch, counted from 0.
    pub epoch: u32,
    /// Mean training loss.
    pub loss: f64,
    /// Learning rate after the epoch's last update.
    pub lr: f64,
}

/// Weights of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvaluatedWeights {
    /// The model's own.
    Model,
    /// The EMA weights.
    Ema,
}

/// Start or end of an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct TestBegin {
    /// Epoch, counted from 0.
    pub epoch: u32,
    /// Evaluated weights.
    pub weights: EvaluatedWeights,
    /// Batches.
    pub batches: usize,
}

/// Return to a checkpoint after an update that was not finite.
#[derive(Clone, Copy, Debug)]
pub struct Rollback<'a> {
    /// The value that was not finite.
    pub reason: &'a str,
    /// Finished updates before the return.
    pub from_update: u64,
    /// Epoch and first batch of the update that is left out from now on.
    pub left_out: (u32, usize),
    /// State of the run at the checkpoint.
    pub state: &'a TrainerState,
}

/// Results of an evaluation.
#[derive(Clone, Copy, Debug)]
pub struct TestSummary<'a> {
    /// Epoch, counted from 0.
    pub epoch: u32,
    /// Evaluated weights. With an EMA its results come first, and they are the epoch's metrics.
    pub weights: EvaluatedWeights,
    /// The results.
    pub evaluation: &'a Evaluation,
}

/// Complete state of a run between two updates.
#[derive(Clone, Copy)]
pub struct RunSnapshot<'a> {
    /// The model.
    pub model: &'a dyn Module,
    /// The optimizer.
    pub optimizer: &'a Optimizer,
    /// The EMA, if there is one.
    pub ema: Option<&'a Ema>,
    /// Progress of the run.
    pub state: &'a TrainerState,
}

/// Reason for saving the state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveReason {
    /// The run starts.
    Start,
    /// A signal or a callback ends the run within an epoch.
    Interrupt,
    /// A signal asks for a checkpoint.
    Request,
    /// The recovery interval has passed.
    Recovery,
    /// The updates of an epoch are done, and its evaluation follows.
    Trained,
    /// An epoch ended.
    EpochEnd {
        /// The epoch was evaluated.
        evaluated: bool,
        /// The epoch is the best so far.
        best: bool,
    },
}
