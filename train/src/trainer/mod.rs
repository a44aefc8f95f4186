//! Training loop: epochs of updates, each followed by validation, from any state until the last epoch, a signal, or the request of a
//! callback. It writes no files: saving and reporting are the work of [callbacks](crate::callbacks).
mod bad_images;
mod evaluation;
mod nonfinite;
mod options;
mod saving;
mod state;
mod update;
mod warm_up;

pub use bad_images::BadImageIndices;
pub use evaluation::{Evaluation, Evaluator, skipped_note};
pub use options::{DISK_WAIT, RunSignals, TrainerOptions};
pub use state::{NonfiniteRecord, TrainerState};

use crate::callbacks::{
    Callback, EpochBegin, EpochEnd, EvaluatedWeights, RunSnapshot, SaveReason, TestBegin, TestSummary,
    TrainBegin, TrainEnd, TrainSummary,
};
use crate::distributed::{DistributedRun, Flags};
use crate::error::ErrorKind;
use crate::loader::{Batch, Loader, StagedBatches};
use crate::optim::Optimizer;
use crate::report::EpochMetrics;
use crate::schedule::Schedule;
use crate::settings::{DistBn, NonfinitePolicy};
use crate::train_step::TrainStep;
use crate::{Error, Result};
use fornax_engine::Device;
use fornax_nn::Module;
use nonfinite::NonfiniteStatus;
use std::cell::Cell;
use std::time::Instant;
use update::{EpochClock, QueuedUpdate};

/// Trainer of one run.
pub struct Trainer<'a> {
    /// The model.
    pub model: &'a dyn Module,
    /// Device of the model and of the loaders.
    pub device: Device,
    /// The optimizer.
    pub optimizer: &'a Optimizer,
    /// The learning-rate schedule.
    pub schedule: &'a Schedule,
    /// Training batches.
    pub train: &'a Loader,
    /// Validation batches.
    pub validation: &'a Loader,
    /// Number of classes.
    pub num_classes: usize,
    /// The training step.
    pub step: &'a mut TrainStep,
    /// The options.
    pub options: TrainerOptions,
    /// Signals for the run.
    pub signals: &'a dyn RunSignals,
    /// The ranks of the run, if there are several.
    pub distributed: Option<&'a DistributedRun>,
    /// Progress of the run.
    pub state: TrainerState,
    status: RunStatus,
}

/// Status of the updates of this process.
#[derive(Default)]
struct RunStatus {
    /// The reason for not capturing updates was reported.
    capture_error_reported: bool,
    nonfinite: NonfiniteStatus,
    /// A rank asked for a checkpoint.
    save_requested: Cell<bool>,
    /// The latest save failed, and was reported.
    save_failed: Cell<bool>,
}

/// End of the updates of an epoch.
#[derive(Clone, Debug, PartialEq)]
enum EpochEnding {
    /// All batches are done.
    Complete,
    /// A callback stopped the run, for this reason.
    Stopped(String),
}

impl<'a> Trainer<'a> {
    /// Creates a trainer that starts from the initial state.
    #[expect(clippy::too_many_arguments, reason = "the parts of a run")]
    pub fn new(
        model: &'a dyn Module,
        optimizer: &'a Optimizer,
        schedule: &'a Schedule,
        train: &'a Loader,
        validation: &'a Loader,
        step: &'a mut TrainStep,
        num_classes: usize,
        options: TrainerOptions,
    ) -> Trainer<'a> {
        Trainer {
            model,
            device: train.options().device,
            optimizer,
            schedule,
            train,
            validation,
            num_classes,
            step,
            options,
            signals: &(),
            distributed: None,
            state: TrainerState::default(),
            status: RunStatus::default(),
        }
    }

    /// Trains to the last epoch and returns the last evaluation. A signal ends the run with [`ErrorKind::Interrupted`], after the state
    /// was saved.
    pub fn run(&mut self, callback: &mut dyn Callback) -> Result<Evaluation> {
        self.restore_bad_images()?;
        let epochs = self.schedule.total_epochs();
        callback.on_train_begin(&TrainBegin {
            epochs,
            batches: self.batches(),
            updates_per_epoch: self.updates_per_epoch(),
            state: &self.state,
            model: self.model,
        })?;
        self.report_ema(u64::from(epochs) * self.updates_per_epoch(), callback)?;
        self.save(SaveReason::Start, callback)?;
        // A resumed run may have reached its end by a callback already.
        let stop = self.agree_on_stop(callback.stop_reason());
        let mut stopped = stop.or_else(|error| self.recover(error, None, callback).map(|()| None))?;
        let mut last = None;
        while self.state.epoch < epochs && stopped.is_none() {
            let ended = self
                .epoch(&mut last, callback)
                .and_then(|ending| Ok((ending, self.agree_on_stop(callback.stop_reason())?)));
            match ended {
                Ok((EpochEnding::Complete, stop)) => stopped = stop,
                Ok((EpochEnding::Stopped(why), _)) => {
                    self.save(SaveReason::Interrupt, callback)?;
                    self.distribute_statistics()?;
                    stopped = Some(why);
                }
                Err(error) => self.recover(error, last.as_ref(), callback)?,
            }
        }
        if let Some(why) = &stopped {
            callback.on_message(&format!("stopped after {} updates: {why}", self.state.update))?;
        }
        let evaluation = match last {
            Some(evaluation) => evaluation,
            None => self.evaluate()?,
        };
        self.report_ema(self.state.update, callback)?;
        callback.on_train_end(&TrainEnd {
            state: &self.state,
            evaluation: Some(&evaluation),
            stop_reason: stopped.as_deref(),
            error: None,
        })?;
        Ok(evaluation)
    }

    /// Batches per epoch.
    pub fn batches(&self) -> usize {
        let all = self.train.batches();
        self.options.batches_per_epoch.map_or(all, |limit| limit.min(all))
    }

    /// Updates per epoch.
    pub fn updates_per_epoch(&self) -> u64 {
        self.batches().div_ceil(self.options.grad_accum_steps) as u64
    }

    /// Evaluates the EMA model if there is one on the model's device, else the model. Errors if the loss is not finite.
    pub fn evaluate(&self) -> Result<Evaluation> {
        self.evaluate_model(self.ema_model().unwrap_or(self.model))
    }

    /// The state of the run.
    pub fn snapshot(&self) -> RunSnapshot<'_> {
        RunSnapshot { model: self.model, optimizer: self.optimizer, ema: self.step.ema(), state: &self.state }
    }

    /// Handles the error of an epoch: a signal saves the state; under `--on-nonfinite rollback`, training returns to the last checkpoint.
    fn recover(
        &mut self,
        error: Error,
        last: Option<&Evaluation>,
        callback: &mut dyn Callback,
    ) -> Result<()> {
        let end = |state| TrainEnd { state, evaluation: last, stop_reason: None, error: Some(&error) };
        match error.kind() {
            ErrorKind::Interrupted(_) => {
                self.save(SaveReason::Interrupt, callback)?;
                callback.on_train_end(&end(&self.state))?;
                Err(error)
            }
            ErrorKind::NonFinite if self.options.on_nonfinite == NonfinitePolicy::Rollback => {
                self.roll_back(error, callback)
            }
            _ => {
                // The reports of the finished epochs are completed; an error of theirs is not the one to report.
                callback.on_train_end(&end(&self.state)).ok();
                Err(error)
            }
        }
    }

    /// Trains the rest of the current epoch, evaluates and saves.
    fn epoch(&mut self, last: &mut Option<Evaluation>, callback: &mut dyn Callback) -> Result<EpochEnding> {
        let (epoch, epochs, batches) = (self.state.epoch, self.schedule.total_epochs(), self.batches());
        callback.on_epoch_begin(&EpochBegin { epoch, epochs, first_batch: self.state.batch, batches })?;
        let mut queued = None;
        let mut clock = EpochClock::start(self.state.batch);
        let trained = self.train_updates(&mut queued, &mut clock, callback);
        // A checkpoint is saved after an epoch or an interrupt: its state counts every update that the model contains.
        if trained.as_ref().err().is_none_or(|error| matches!(error.kind(), ErrorKind::Interrupted(_)))
            && let Some(update) = queued
        {
            self.finish_update(update, &clock, callback)?;
        }
        if let stopped @ EpochEnding::Stopped(_) = trained? {
            return Ok(stopped);
        }
        self.optimizer.sync_lookahead()?;
        self.gather_bad_images()?;
        let (loss, lr) = (self.state.mean_loss(), self.lr(self.state.update));
        callback.on_train_summary(&TrainSummary { epoch, loss, lr })?;
        let is_evaluated = (epoch + 1).is_multiple_of(self.options.val_interval) || epoch + 1 == epochs;
        // An evaluation that fails costs no update. Under `rollback` it may fail by the weights: the last checkpoint must be older.
        if is_evaluated && self.options.on_nonfinite != NonfinitePolicy::Rollback {
            self.save(SaveReason::Trained, callback)?;
        }
        let (evaluation, own) = match is_evaluated {
            true => self.evaluate_epoch(callback).map(|(evaluation, own)| (Some(evaluation), own))?,
            false => (None, None),
        };
        let state = &mut self.state;
        if let Some(evaluation) = &evaluation {
            let of_model = |value: fn(&Evaluation) -> f64| own.as_ref().map(value);
            state.history.push(EpochMetrics {
                epoch,
                train_loss: loss,
                eval_loss: evaluation.loss,
                eval_top1: evaluation.top1,
                eval_top5: evaluation.top5,
                lr,
                model_eval_loss: of_model(|evaluation| evaluation.loss),
                model_eval_top1: of_model(|evaluation| evaluation.top1),
                model_eval_top5: of_model(|evaluation| evaluation.top5),
                eval_skipped: evaluation.skipped.len(),
            });
        }
        let row = state.history.last().filter(|row| row.epoch == epoch).cloned();
        self.schedule.observe(
            &mut state.plateau,
            epoch,
            row.as_ref().map(|row| self.options.eval_metric.value(row)),
        );
        state.begin_epoch(epoch + 1);
        let best = self.state.best(self.options.eval_metric).map(|row| row.epoch) == Some(epoch);
        callback.on_epoch_end(&EpochEnd {
            epoch,
            metrics: row.as_ref(),
            evaluation: evaluation.as_ref(),
            best,
            state: &self.state,
            model: self.model,
            ema: self.step.ema(),
        })?;
        self.save(SaveReason::EpochEnd { evaluated: is_evaluated, best }, callback)?;
        *last = evaluation.or(last.take());
        Ok(EpochEnding::Complete)
    }

    /// Evaluates EMA and model at the end of an epoch; returns the results that are the epoch's metrics, and with an EMA those of the model.
    fn evaluate_epoch(&self, callback: &mut dyn Callback) -> Result<(Evaluation, Option<Evaluation>)> {
        let Some(ema) = self.ema_model() else {
            return Ok((self.evaluate_weights(EvaluatedWeights::Model, self.model, callback)?, None));
        };
        let of_ema = self.evaluate_weights(EvaluatedWeights::Ema, ema, callback)?;
        let of_model = self.evaluate_weights(EvaluatedWeights::Model, self.model, callback)?;
        let Evaluation { loss, top1, top5, .. } = &of_model;
        callback.on_message(&format!(
            "without EMA  validation loss {loss:.4}  top-1 {top1:.2}  top-5 {top5:.2}"
        ))?;
        Ok((of_ema, Some(of_model)))
    }

    fn evaluate_weights(
        &self,
        weights: EvaluatedWeights,
        model: &dyn Module,
        callback: &mut dyn Callback,
    ) -> Result<Evaluation> {
        let event = TestBegin { epoch: self.state.epoch, weights, batches: self.validation.batches() };
        callback.on_test_begin(&event)?;
        let evaluation = self.evaluate_model(model)?;
        callback.on_test_end(&event)?;
        callback.on_test_summary(&TestSummary { epoch: event.epoch, weights, evaluation: &evaluation })?;
        Ok(evaluation)
    }

    /// Trains the rest of the current epoch. The result of an update is read after the next one is queued, so that the device always has
    /// work; the last update stays in `queued`.
    fn train_updates(
        &mut self,
        queued: &mut Option<QueuedUpdate>,
        clock: &mut EpochClock,
        callback: &mut dyn Callback,
    ) -> Result<EpochEnding> {
        let mut source = self.training_batches(self.state.batch)?;
        let (mut next, batches) = (self.state.batch, self.batches());
        while next < batches {
            let end = batches.min(next + self.options.grad_accum_steps);
            let before = Instant::now();
            let inputs = (next..end).map(|_| self.take_batch(&mut source)).collect::<Result<Vec<_>>>()?;
            let data_wait = before.elapsed();
            clock.waited += data_wait;
            if self.state.nonfinite.left_out.contains(&(self.state.epoch, next)) {
                self.finish_queued(queued, clock, callback)?;
                self.leave_out(inputs.len());
                if end == batches {
                    self.distribute_statistics()?;
                }
            } else {
                self.queue_update(&inputs, next, data_wait, queued, clock, callback)?;
            }
            next = end;
            if let Some(reason) = self.due_save(next) {
                self.finish_queued(queued, clock, callback)?;
                self.save(reason, callback)?;
                if reason == SaveReason::Request {
                    callback.on_message(&format!("checkpoint saved at update {}", self.state.update))?;
                }
            }
            if let Some(why) = self.agree(callback.stop_reason())? {
                self.finish_queued(queued, clock, callback)?;
                return Ok(EpochEnding::Stopped(why));
            }
        }
        Ok(EpochEnding::Complete)
    }

    /// Reason for saving before batch `next`, if there is one.
    fn due_save(&self, next: usize) -> Option<SaveReason> {
        let (interval, batches) = (self.options.recovery_interval, self.batches());
        let update_of_epoch = next.div_ceil(self.options.grad_accum_steps) as u64;
        if interval > 0 && update_of_epoch.is_multiple_of(interval) && next < batches {
            return Some(SaveReason::Recovery);
        }
        let is_requested = match self.distributed {
            Some(_) => self.status.save_requested.take(),
            None => self.signals.take_save_request(),
        };
        is_requested.then_some(SaveReason::Request)
    }

    /// Training batches of the current epoch on the device.
    fn training_batches(&self, first: usize) -> Result<StagedBatches<'static>> {
        let (loss, classes) = (self.step.options().loss.clone(), self.num_classes);
        let prepare =
            move |batch: Batch| Ok(Batch { target: loss.prepare(&batch.target, classes)?, ..batch });
        self.train.staged_epoch(self.state.epoch, first, prepare)
    }

    fn take_batch(&self, source: &mut StagedBatches) -> Result<Batch> {
        let batch = source.next_batch(&|| self.check_wait());
        batch.unwrap_or_else(|| Err(Error::new(ErrorKind::Bug, "the loader ended before its last batch")))
    }

    /// Learning rate of the update after `update` updates.
    fn lr(&self, update: u64) -> f64 {
        let TrainerState { epoch, plateau, .. } = &self.state;
        self.schedule.lr_at(*epoch, update, self.updates_per_epoch()) * plateau.scale
    }

    /// The EMA model, if there is one on the model's device: it replaces the model in evaluations.
    fn ema_model(&self) -> Option<&dyn Module> {
        self.step.ema().filter(|ema| ema.device() == self.device).map(|ema| ema.model())
    }

    /// Reports EMA weights that are little more than a copy of the weights after the first update.
    fn report_ema(&self, updates: u64, callback: &mut dyn Callback) -> Result<()> {
        let Some(ema) = self.step.ema() else { return Ok(()) };
        let fraction = ema.options().initial_fraction(updates);
        if fraction < 0.5 || updates == 0 {
            return Ok(());
        }
        callback.on_message(&format!(
            "warning: after {updates} updates at decay {}, {:.0}% of the EMA weights are still those of the first update; lower \
             --model-ema-decay or add --model-ema-warmup",
            ema.options().decay,
            100.0 * fraction
        ))
    }

    fn evaluator(&self) -> Evaluator<'_> {
        Evaluator {
            loader: self.validation,
            num_classes: self.num_classes,
            precision: self.step.options().precision,
            conv_algorithm: self.step.options().conv_algorithm,
            preparation: self.step.preparation(),
            keeps_top5: false,
            group: self.distributed.map(|run| &*run.group),
        }
    }

    fn evaluate_model(&self, model: &dyn Module) -> Result<Evaluation> {
        let evaluation = self.evaluator().evaluate(model, &|| self.check_interrupt())?;
        self.check_finite(evaluation.loss, "validation")?;
        Ok(evaluation)
    }

    /// Errors if a signal interrupts the run; several ranks are interrupted at the same call.
    fn check_interrupt(&self) -> Result<()> {
        self.agree(None).map(drop)
    }

    /// As [`Trainer::check_interrupt`]; the result is the reason for which the run stops. Several ranks act on the flags of the call
    /// before, so that no rank waits for another.
    fn agree(&self, stop: Option<String>) -> Result<Option<String>> {
        let flags = match self.distributed {
            None => Flags { interrupt: self.signals.interrupt(), stop, ..Flags::default() },
            Some(run) => run.agree(&self.own_flags(stop))?,
        };
        self.act_on(flags)
    }

    /// As [`Trainer::agree`], between epochs: the ranks act on the flags of this call.
    fn agree_on_stop(&self, stop: Option<String>) -> Result<Option<String>> {
        match self.distributed {
            None => self.agree(stop),
            Some(run) => self.act_on(run.agree_now(&self.own_flags(stop))?),
        }
    }

    fn own_flags(&self, stop: Option<String>) -> Flags {
        Flags {
            interrupt: self.signals.interrupt(),
            save: self.signals.take_save_request(),
            bad_images: self.has_unshared_bad_images(),
            stop,
        }
    }

    fn act_on(&self, flags: Flags) -> Result<Option<String>> {
        if flags.save {
            self.status.save_requested.set(true);
        }
        if let Some(signal) = flags.interrupt {
            return Err(Error::new(ErrorKind::Interrupted(signal), "the run was interrupted"));
        }
        if flags.bad_images {
            self.gather_bad_images()?;
        }
        Ok(flags.stop)
    }

    /// While waiting for data: errors if a signal interrupts the only process, or if another rank is lost.
    fn check_wait(&self) -> Result<()> {
        match self.distributed {
            Some(run) => run.group.check(),
            None => self.check_interrupt(),
        }
    }

    /// Makes running statistics equal on all ranks. Those of the EMA, which averages all updates, are rank 0's.
    fn distribute_statistics(&self) -> Result<()> {
        let Some(run) = self.distributed else { return Ok(()) };
        run.distribute_statistics(self.model, self.options.dist_bn)?;
        match self.step.ema() {
            Some(ema) => run.distribute_statistics(ema.model(), DistBn::Broadcast),
            None => Ok(()),
        }
    }

    fn check_finite(&self, loss: f64, which: &str) -> Result<()> {
        if loss.is_finite() {
            Ok(())
        } else {
            Err(self.nonfinite_error(format!("the {which} loss is {loss}")))
        }
    }
}
