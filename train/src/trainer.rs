//! The training loop: epochs of updates, each followed by validation, from any state to the end or to a signal.
use crate::checkpoint;
use crate::data::{Batch, Loader};
use crate::error::{Kind, Signal};
use crate::optim::Optimizer;
use crate::report::{EpochMetrics, Observer, UpdateReport};
use crate::schedule::{PlateauState, Schedule};
use crate::settings::Metric;
use crate::train_step::TrainStep;
use crate::{Error, Result};
use fornax_engine::{Device, Tensor, no_grad};
use fornax_nn::precision::Operation;
use fornax_nn::{Context, Module};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Where a run stands. With model and optimizer it decides all that follows; no clock enters it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Epochs that are done, validation included.
    pub epoch: u32,
    /// Batches done of the next epoch.
    pub batch: usize,
    /// Updates done in all.
    pub update: u64,
    /// Sum of the losses of those batches.
    pub loss_sum: f64,
    /// What each finished epoch came to.
    pub history: Vec<EpochMetrics>,
    /// What a plateau of the metric led to.
    #[serde(default, skip_serializing_if = "PlateauState::is_initial")]
    pub plateau: PlateauState,
}

impl TrainerState {
    /// The best epoch by a metric, the earliest of equals.
    pub fn best(&self, metric: Metric) -> Option<&EpochMetrics> {
        let better = |a: &EpochMetrics, b: &EpochMetrics| match metric.lower_is_better() {
            true => metric.of(a) < metric.of(b),
            false => metric.of(a) > metric.of(b),
        };
        self.history.iter().reduce(|best, row| if better(row, best) { row } else { best })
    }
}

/// What updates told, in this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// Why they are not recorded.
    why_unrecorded: bool,
    /// The loss scale after the last one.
    loss_scale: Option<f32>,
}

/// How well a model does on the validation images.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross entropy, without smoothing.
    pub loss: f64,
    /// Percent of images whose class has the highest logit.
    pub top1: f64,
    /// Percent of images whose class is among the five highest logits.
    pub top5: f64,
    /// Images of class `row` taken for class `column`, row by row.
    pub confusion: Vec<Vec<u64>>,
}

/// Why a state is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Save {
    /// The run starts, or a signal stops it.
    State,
    /// An epoch ended; true when it is the best so far.
    Epoch(bool),
}

/// Everything that a run trains with.
pub struct Trainer<'a> {
    /// The model.
    pub model: &'a dyn Module,
    /// Where the model is, and its batches go.
    pub device: Device,
    /// What changes its parameters.
    pub optimizer: Optimizer,
    /// At which rate.
    pub schedule: &'a Schedule,
    /// Batches to learn from.
    pub train: Loader<'a>,
    /// Batches to be judged by.
    pub validation: Loader<'a>,
    /// Number of classes.
    pub classes: usize,
    /// How updates compute.
    pub step: TrainStep,
    /// Batches that one update takes its gradient from.
    pub accumulate: usize,
    /// What ranks epochs.
    pub eval_metric: Metric,
    /// Asked after every batch: a signal that wants the run to stop.
    pub stop: &'a dyn Fn() -> Option<Signal>,
    /// Where the run stands.
    pub state: TrainerState,
    /// What updates told so far.
    pub told: Told,
}

impl Trainer<'_> {
    /// Trains to the last epoch and returns the last evaluation. `save` is handed the trainer whenever its state should
    /// outlive the process. A signal ends the run with [`Kind::Interrupted`], after saving.
    pub fn run(
        &mut self,
        observer: &mut dyn Observer,
        save: &mut dyn FnMut(&Trainer, Save) -> Result<()>,
    ) -> Result<Evaluation> {
        save(self, Save::State)?;
        let mut last = None;
        while self.state.epoch < self.schedule.total_epochs() {
            let evaluation = match self.epoch(observer) {
                Err(error) if matches!(error.kind(), Kind::Interrupted(_)) => {
                    save(self, Save::State)?;
                    return Err(error);
                }
                other => other?,
            };
            let best = self.state.best(self.eval_metric).map(|row| row.epoch) == Some(self.state.epoch - 1);
            observer.epoch(self.state.history.last().expect("an epoch was just added"), best)?;
            if let Err(error) = save(self, Save::Epoch(best)) {
                // A full disk may have room again at the end of the next epoch; what was saved before is still there.
                match self.state.epoch < self.schedule.total_epochs() {
                    true => observer.note(&format!("warning: {error}"))?,
                    false => return Err(error),
                }
            }
            last = Some(evaluation);
            self.heed_signals()?;
        }
        match last {
            Some(evaluation) => Ok(evaluation),
            None => self.evaluate(),
        }
    }

    /// The rest of the current epoch, and its validation.
    fn epoch(&mut self, observer: &mut dyn Observer) -> Result<Evaluation> {
        let batches = self.train.batches();
        let updates = batches.div_ceil(self.accumulate) as u64;
        let started = Instant::now();
        let (first, mut waited) = (self.state.batch, Duration::ZERO);
        while self.state.batch < batches {
            let before = Instant::now();
            let last = batches.min(self.state.batch + self.accumulate);
            let taken: Vec<Batch> =
                (self.state.batch..last).map(|index| self.batch(index)).collect::<Result<_>>()?;
            waited += before.elapsed();
            let images = taken[0].images.dims()[0];
            let lr = self.rate(updates);
            let Updated { loss, grad_norm, loss_scale } = self.update(&taken, lr)?;
            self.state.loss_sum += loss * taken.len() as f64;
            self.state.batch = last;
            self.state.update += 1;
            if let Some(why) = self.step.unrecordable().filter(|_| !self.told.why_unrecorded) {
                observer.note(&format!("updates are not recorded as a CUDA graph: {why}"))?;
                self.told.why_unrecorded = true;
            }
            let elapsed = started.elapsed().as_secs_f64();
            observer.update(&UpdateReport {
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
            })?;
            self.heed_signals()?;
        }
        self.optimizer.sync_lookahead()?;
        let evaluation = self.evaluate()?;
        if self.averaged().is_some() {
            let Evaluation { loss, top1, top5, .. } = self.evaluate_model(self.model)?;
            observer.note(&format!(
                "without averaging  validation loss {loss:.4}  top-1 {top1:.2}  top-5 {top5:.2}"
            ))?;
        }
        let lr = self.rate(updates);
        let state = &mut self.state;
        state.history.push(EpochMetrics {
            epoch: state.epoch,
            train_loss: state.loss_sum / batches as f64,
            eval_loss: evaluation.loss,
            eval_top1: evaluation.top1,
            eval_top5: evaluation.top5,
            lr,
        });
        let metric = self.eval_metric.of(state.history.last().expect("an epoch was just added"));
        self.schedule.observe(&mut state.plateau, state.epoch, Some(metric));
        (state.epoch, state.batch, state.loss_sum) = (state.epoch + 1, 0, 0.0);
        Ok(evaluation)
    }

    /// A batch of the current epoch, with its target as the loss takes it.
    fn batch(&self, index: usize) -> Result<Batch> {
        let batch = self.train.batch(self.state.epoch, index)?;
        Ok(Batch { target: self.step.options().loss.prepare(&batch.target, self.classes)?, ..batch })
    }

    /// The rate of the next update.
    fn rate(&self, updates_per_epoch: u64) -> f64 {
        let TrainerState { epoch, update, plateau, .. } = &self.state;
        self.schedule.lr_at(*epoch, *update, updates_per_epoch) * plateau.scale
    }

    /// One update. A loss that is not finite ends the run, unless it is an overflow that a smaller loss scale may cure; then it counts as
    /// the mean of the epoch so far.
    fn update(&mut self, batches: &[Batch], lr: f64) -> Result<Updated> {
        if let Some(ema) = self.step.ema_mut() {
            ema.set_decay(ema.options().decay_at(self.state.update + 1))?;
        }
        let mut loss = self.step.run(self.model, &self.optimizer, batches, lr)?;
        let rule = *self.optimizer.gradient_rule();
        let report = if rule.computes_grad_norm() { Some(self.optimizer.report()?) } else { None };
        if let (Some(report), Some(scaling)) = (&report, &rule.scaling) {
            let was_lowest = self.told.loss_scale.is_some_and(|scale| scale <= scaling.min_scale);
            self.told.loss_scale = Some(report.loss_scale);
            if report.skipped && !was_lowest && !loss.is_finite() {
                loss = self.state.loss_sum / self.state.batch.max(1) as f64;
            }
            if report.skipped && was_lowest {
                self.check_finite(f64::NAN, "training")?;
            }
        }
        self.check_finite(loss, "training")?;
        Ok(Updated {
            loss,
            grad_norm: report.and_then(|report| report.grad_norm),
            loss_scale: rule.scaling.and(report.map(|report| report.loss_scale)),
        })
    }

    /// The average of the model, where it takes the model's place in evaluations: if there is one, on the model's device.
    fn averaged(&self) -> Option<&dyn Module> {
        self.step.ema().filter(|ema| ema.device() == self.device).map(|ema| ema.model())
    }

    /// How well the model does now, or its average if there is one on the model's device.
    pub fn evaluate(&self) -> Result<Evaluation> {
        self.evaluate_model(self.averaged().unwrap_or(self.model))
    }

    fn evaluate_model(&self, model: &dyn Module) -> Result<Evaluation> {
        let mut cx = Context::eval().with_precision(self.step.options().precision);
        let (mut loss, mut top1, mut top5, mut n) = (0.0, 0, 0, 0);
        let mut confusion = vec![vec![0; self.classes]; self.classes];
        for index in 0..self.validation.batches() {
            self.heed_signals()?;
            let batch = self.validation.batch(0, index)?;
            let images = batch.images.to_device(&self.device)?;
            let logits = no_grad(|| {
                let pixels = self.step.pixels(&images, &cx)?;
                let logits = model.forward(&pixels, &mut cx)?;
                cx.autocast(Operation::Loss, &logits)
            })?;
            let images = batch.target.numel();
            let target = batch.target.to_device(&self.device)?;
            loss += logits.cross_entropy(&target, 0.0)?.item()? * images as f64;
            n += images;
            for (row, target) in rows(&logits, self.classes)?.iter().zip(batch.target.to_vec::<i64>()?) {
                let (rank, guess) = rank(row, target as usize);
                top1 += u64::from(rank < 1);
                top5 += u64::from(rank < 5);
                confusion[target as usize][guess] += 1;
            }
        }
        self.check_finite(loss, "validation")?;
        let percent = |count: u64| 100.0 * count as f64 / n as f64;
        Ok(Evaluation { loss: loss / n as f64, top1: percent(top1), top5: percent(top5), confusion })
    }

    /// The SHA-256 of the tensors of the model, its optimizer and its average: equal for equal states.
    pub fn hash(&self) -> Result<String> {
        checkpoint::hash(&checkpoint::tensors(self.model, Some(&self.optimizer), self.step.ema())?)
    }

    fn heed_signals(&self) -> Result<()> {
        match (self.stop)() {
            None => Ok(()),
            Some(signal) => Err(Error::new(Kind::Interrupted(signal), "the run was asked to stop")),
        }
    }

    fn check_finite(&self, loss: f64, which: &str) -> Result<()> {
        if loss.is_finite() {
            return Ok(());
        }
        let place = format!("epoch {}, after {} updates", self.state.epoch + 1, self.state.update);
        Err(Error::new(Kind::NonFinite, format!("the {which} loss is {loss}")).at(place).remedy(
            "lower --lr or lengthen --warmup-epochs; the last checkpoint is from before the loss became so",
        ))
    }
}

/// What an update came to.
struct Updated {
    loss: f64,
    grad_norm: Option<f32>,
    loss_scale: Option<f32>,
}

fn rows(logits: &Tensor, classes: usize) -> Result<Vec<Vec<f32>>> {
    Ok(logits.read::<f32>()?.chunks_exact(classes).map(<[f32]>::to_vec).collect())
}

/// How many logits are above that of `target` (of equals, the lower class counts as above), and the class of the highest.
fn rank(logits: &[f32], target: usize) -> (usize, usize) {
    let above = |a: usize, b: usize| logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
    let rank = (0..logits.len()).filter(|class| above(*class, target)).count();
    let guess = (0..logits.len()).reduce(|best, class| if above(class, best) { class } else { best });
    (rank, guess.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_what_is_above() {
        let logits = [0.5, 2.0, 1.0, 2.0];
        assert_eq!(rank(&logits, 1), (0, 1));
        assert_eq!(rank(&logits, 3), (1, 1));
        assert_eq!(rank(&logits, 0), (3, 1));
    }

    #[test]
    fn the_earliest_of_equal_epochs_is_best() {
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
        assert_eq!(state.best(Metric::Top1).map(|r| r.epoch), Some(1));
        assert_eq!(state.best(Metric::Loss).map(|r| r.epoch), Some(2));
        assert_eq!(TrainerState::default().best(Metric::Loss), None);
    }
}
