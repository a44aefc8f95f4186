//! Training loop: epochs of updates, each followed by validation, from any state until the last epoch or a signal.
use crate::checkpoint;
use crate::data::{Batch, Loader};
use crate::error::{ErrorKind, Signal};
use crate::optim::Optimizer;
use crate::report::{Callback, EpochMetrics, MemoryMetrics, UpdateMetrics};
use crate::schedule::{PlateauState, Schedule};
use crate::settings::EvalMetric;
use crate::train_step::TrainStep;
use crate::{Error, Result};
use fornax_engine::{Device, Tensor, no_grad};
use fornax_nn::precision::Operation;
use fornax_nn::{Context, Module};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Progress of a run. Together with model and optimizer it determines the rest of the run; no clock enters it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Finished epochs, validation included.
    pub epoch: u32,
    /// Finished batches of the current epoch.
    pub batch: usize,
    /// Finished updates of the run.
    pub update: u64,
    /// Sum of the losses of the current epoch's finished batches.
    pub loss_sum: f64,
    /// Metrics of each finished epoch.
    pub history: Vec<EpochMetrics>,
    /// State of the `plateau` schedule.
    #[serde(default, skip_serializing_if = "PlateauState::is_initial")]
    pub plateau: PlateauState,
}

impl TrainerState {
    /// The best epoch by a metric; the earliest of equals.
    pub fn best(&self, metric: EvalMetric) -> Option<&EpochMetrics> {
        let better = |a: &EpochMetrics, b: &EpochMetrics| match metric.lower_is_better() {
            true => metric.value(a) < metric.value(b),
            false => metric.value(a) > metric.value(b),
        };
        self.history.iter().reduce(|best, row| if better(row, best) { row } else { best })
    }
}

/// Status of the updates of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpdateStatus {
    /// The reason for not capturing updates was reported.
    capture_error_reported: bool,
    /// Loss scale after the last update.
    loss_scale: Option<f32>,
}

/// Validation results.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross entropy, without label smoothing.
    pub loss: f64,
    /// Top-1 accuracy in percent.
    pub top1: f64,
    /// Top-5 accuracy in percent.
    pub top5: f64,
    /// Confusion matrix, row by row: images of class `row` predicted as class `column`.
    pub confusion: Vec<Vec<u64>>,
}

/// Reason for saving a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveReason {
    /// The run starts, or a signal interrupts it.
    StartOrInterrupt,
    /// An epoch ended; true if it is the best so far.
    EpochEnd(bool),
}

/// Trainer of one run.
pub struct Trainer<'a> {
    /// The model.
    pub model: &'a dyn Module,
    /// Device of the model; batches are copied to it.
    pub device: Device,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The learning-rate schedule.
    pub schedule: &'a Schedule,
    /// Training batches.
    pub train: Loader<'a>,
    /// Validation batches.
    pub validation: Loader<'a>,
    /// Number of classes.
    pub num_classes: usize,
    /// The training step.
    pub step: TrainStep,
    /// Gradient accumulation steps: batches per update.
    pub grad_accum_steps: usize,
    /// Metric that ranks epochs.
    pub eval_metric: EvalMetric,
    /// Returns the signal that interrupts the run, if one arrived; polled after every update and validation batch.
    pub interrupt: &'a dyn Fn() -> Option<Signal>,
    /// Progress of the run.
    pub state: TrainerState,
    /// Status of the updates so far.
    pub status: UpdateStatus,
}

impl Trainer<'_> {
    /// Trains to the last epoch and returns the last evaluation. Calls `save` at the start, after every epoch, and when a signal
    /// interrupts the run, which then ends with [`ErrorKind::Interrupted`].
    pub fn run(
        &mut self,
        callback: &mut dyn Callback,
        save: &mut dyn FnMut(&Trainer, SaveReason) -> Result<()>,
    ) -> Result<Evaluation> {
        save(self, SaveReason::StartOrInterrupt)?;
        let mut last = None;
        while self.state.epoch < self.schedule.total_epochs() {
            let evaluation = match self.epoch(callback) {
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted(_)) => {
                    save(self, SaveReason::StartOrInterrupt)?;
                    return Err(error);
                }
                other => other?,
            };
            let best = self.state.best(self.eval_metric).map(|row| row.epoch) == Some(self.state.epoch - 1);
            callback.on_epoch_end(self.state.history.last().expect("an epoch was just added"), best)?;
            if let Err(error) = save(self, SaveReason::EpochEnd(best)) {
                // A full disk may have space again at the end of the next epoch; earlier checkpoints are still there.
                match self.state.epoch < self.schedule.total_epochs() {
                    true => callback.on_message(&format!("warning: {error}"))?,
                    false => return Err(error),
                }
            }
            last = Some(evaluation);
            self.check_interrupt()?;
        }
        match last {
            Some(evaluation) => Ok(evaluation),
            None => self.evaluate(),
        }
    }

    /// Trains the rest of the current epoch and validates.
    fn epoch(&mut self, callback: &mut dyn Callback) -> Result<Evaluation> {
        let batches = self.train.batches();
        let updates = batches.div_ceil(self.grad_accum_steps) as u64;
        let started = Instant::now();
        let (first, mut waited) = (self.state.batch, Duration::ZERO);
        while self.state.batch < batches {
            let before = Instant::now();
            let last = batches.min(self.state.batch + self.grad_accum_steps);
            let inputs: Vec<Batch> =
                (self.state.batch..last).map(|index| self.batch(index)).collect::<Result<_>>()?;
            waited += before.elapsed();
            let images = inputs[0].images.dims()[0];
            let lr = self.lr(updates);
            let UpdateResult { loss, grad_norm, loss_scale } = self.update(&inputs, lr)?;
            self.state.loss_sum += loss * inputs.len() as f64;
            self.state.batch = last;
            self.state.update += 1;
            if let Some(why) = self.step.capture_error().filter(|_| !self.status.capture_error_reported) {
                callback.on_message(&format!("updates are not captured as a CUDA graph: {why}"))?;
                self.status.capture_error_reported = true;
            }
            let elapsed = started.elapsed().as_secs_f64();
            callback.on_update(&UpdateMetrics {
                epoch: self.state.epoch,
                epochs: self.schedule.total_epochs(),
                batch: self.state.batch,
                batches,
                update: self.state.update,
                loss: self.state.loss_sum / self.state.batch as f64,
                lr,
                grad_norm,
                loss_scale,
                images_per_second: ((self.state.batch - first) * images) as f64 / elapsed,
                data_wait: waited.as_secs_f64() / elapsed,
                memory: MemoryMetrics::of(self.device),
            })?;
            self.check_interrupt()?;
        }
        self.optimizer.sync_lookahead()?;
        let evaluation = self.evaluate()?;
        if self.ema_model().is_some() {
            let Evaluation { loss, top1, top5, .. } = self.evaluate_model(self.model)?;
            callback.on_message(&format!(
                "without EMA  validation loss {loss:.4}  top-1 {top1:.2}  top-5 {top5:.2}"
            ))?;
        }
        let lr = self.lr(updates);
        let state = &mut self.state;
        state.history.push(EpochMetrics {
            epoch: state.epoch,
            train_loss: state.loss_sum / batches as f64,
            eval_loss: evaluation.loss,
            eval_top1: evaluation.top1,
            eval_top5: evaluation.top5,
            lr,
        });
        let metric = self.eval_metric.value(state.history.last().expect("an epoch was just added"));
        self.schedule.observe(&mut state.plateau, state.epoch, Some(metric));
        (state.epoch, state.batch, state.loss_sum) = (state.epoch + 1, 0, 0.0);
        Ok(evaluation)
    }

    /// A batch of the current epoch, with its target prepared for the loss.
    fn batch(&self, index: usize) -> Result<Batch> {
        let batch = self.train.batch(self.state.epoch, index)?;
        Ok(Batch { target: self.step.options().loss.prepare(&batch.target, self.num_classes)?, ..batch })
    }

    /// Learning rate of the next update.
    fn lr(&self, updates_per_epoch: u64) -> f64 {
        let TrainerState { epoch, update, plateau, .. } = &self.state;
        self.schedule.lr_at(*epoch, *update, updates_per_epoch) * plateau.scale
    }

    /// Runs one update. A non-finite loss ends the run, unless a smaller loss scale may cure the overflow; it then counts as the mean of
    /// the epoch so far.
    fn update(&mut self, batches: &[Batch], lr: f64) -> Result<UpdateResult> {
        if let Some(ema) = self.step.ema_mut() {
            ema.set_decay(ema.options().decay_at(self.state.update + 1))?;
        }
        let mut loss = self.step.run(self.model, &self.optimizer, batches, lr)?;
        let rule = *self.optimizer.gradient_rule();
        let stats = if rule.computes_grad_norm() { Some(self.optimizer.stats()?) } else { None };
        if let (Some(stats), Some(scaling)) = (&stats, &rule.scaling) {
            let was_lowest = self.status.loss_scale.is_some_and(|scale| scale <= scaling.min_scale);
            self.status.loss_scale = Some(stats.loss_scale);
            if stats.skipped && !was_lowest && !loss.is_finite() {
                loss = self.state.loss_sum / self.state.batch.max(1) as f64;
            }
            if stats.skipped && was_lowest {
                self.check_finite(f64::NAN, "training")?;
            }
        }
        self.check_finite(loss, "training")?;
        Ok(UpdateResult {
            loss,
            grad_norm: stats.and_then(|stats| stats.grad_norm),
            loss_scale: rule.scaling.and(stats.map(|stats| stats.loss_scale)),
        })
    }

    /// The EMA model, if there is one on the model's device: it replaces the model in evaluations.
    fn ema_model(&self) -> Option<&dyn Module> {
        self.step.ema().filter(|ema| ema.device() == self.device).map(|ema| ema.model())
    }

    /// Evaluates the EMA model if there is one on the model's device, else the model.
    pub fn evaluate(&self) -> Result<Evaluation> {
        self.evaluate_model(self.ema_model().unwrap_or(self.model))
    }

    fn evaluate_model(&self, model: &dyn Module) -> Result<Evaluation> {
        let mut cx = Context::eval().with_precision(self.step.options().precision);
        let (mut loss, mut top1, mut top5, mut n) = (0.0, 0, 0, 0);
        let mut confusion = vec![vec![0; self.num_classes]; self.num_classes];
        for index in 0..self.validation.batches() {
            self.check_interrupt()?;
            let batch = self.validation.batch(0, index)?;
            let images = batch.images.to_device(&self.device)?;
            let logits = no_grad(|| {
                let pixels = self.step.prepare_images(&images, &cx)?;
                let logits = model.forward(&pixels, &mut cx)?;
                cx.autocast(Operation::Loss, &logits)
            })?;
            let images = batch.target.numel();
            let target = batch.target.to_device(&self.device)?;
            loss += logits.cross_entropy(&target, 0.0)?.item()? * images as f64;
            n += images;
            for (row, target) in rows(&logits, self.num_classes)?.iter().zip(batch.target.to_vec::<i64>()?) {
                let (rank, predicted) = rank(row, target as usize);
                top1 += u64::from(rank < 1);
                top5 += u64::from(rank < 5);
                confusion[target as usize][predicted] += 1;
            }
        }
        self.check_finite(loss, "validation")?;
        let percent = |count: u64| 100.0 * count as f64 / n as f64;
        Ok(Evaluation { loss: loss / n as f64, top1: percent(top1), top5: percent(top5), confusion })
    }

    /// SHA-256 of the tensors of model, optimizer and EMA: equal for equal states.
    pub fn hash(&self) -> Result<String> {
        checkpoint::hash(&checkpoint::tensors(self.model, Some(&self.optimizer), self.step.ema())?)
    }

    fn check_interrupt(&self) -> Result<()> {
        match (self.interrupt)() {
            None => Ok(()),
            Some(signal) => Err(Error::new(ErrorKind::Interrupted(signal), "the run was interrupted")),
        }
    }

    fn check_finite(&self, loss: f64, which: &str) -> Result<()> {
        if loss.is_finite() {
            return Ok(());
        }
        let location = format!("epoch {}, after {} updates", self.state.epoch + 1, self.state.update);
        Err(Error::new(ErrorKind::NonFinite, format!("the {which} loss is {loss}")).at(location).remedy(
            "lower --lr or raise --warmup-epochs; the last checkpoint was saved before the loss became non-finite",
        ))
    }
}

/// Result of one update.
struct UpdateResult {
    loss: f64,
    grad_norm: Option<f32>,
    loss_scale: Option<f32>,
}

fn rows(logits: &Tensor, classes: usize) -> Result<Vec<Vec<f32>>> {
    Ok(logits.read::<f32>()?.chunks_exact(classes).map(<[f32]>::to_vec).collect())
}

/// The rank of `target` among the logits, from 0 (among equals the lower class ranks first), and the class with the highest logit.
fn rank(logits: &[f32], target: usize) -> (usize, usize) {
    let above = |a: usize, b: usize| logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
    let rank = (0..logits.len()).filter(|class| above(*class, target)).count();
    let predicted = (0..logits.len()).reduce(|best, class| if above(class, best) { class } else { best });
    (rank, predicted.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_counts_higher_logits() {
        let logits = [0.5, 2.0, 1.0, 2.0];
        assert_eq!(rank(&logits, 1), (0, 1));
        assert_eq!(rank(&logits, 3), (1, 1));
        assert_eq!(rank(&logits, 0), (3, 1));
    }

    #[test]
    fn earliest_of_equal_epochs_is_best() {
        let row = |epoch, top1, loss| EpochMetrics {
            epoch,
            train_loss: 0.0,
            eval_loss: loss,
            eval_top1: top1,
            eval_top5: 0.0,
            lr: 0.1,
        };
        let state = TrainerState {
            history: vec![row(0, 50.0, 1.0), row(1, 60.0, 0.9), row(2, 60.0, 0.8)],
            ..TrainerState::default()
        };
        assert_eq!(state.best(EvalMetric::Top1).map(|r| r.epoch), Some(1));
        assert_eq!(state.best(EvalMetric::Loss).map(|r| r.epoch), Some(2));
        assert_eq!(TrainerState::default().best(EvalMetric::Loss), None);
    }
}
