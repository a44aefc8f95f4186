//! Progress of a run, as saved in checkpoints.
use crate::report::EpochMetrics;
use crate::schedule::PlateauState;
use crate::settings::EvalMetric;
use serde::{Deserialize, Serialize};

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
    /// Metrics of each evaluated epoch.
    pub history: Vec<EpochMetrics>,
    /// State of the `plateau` schedule.
    #[serde(default, skip_serializing_if = "PlateauState::is_initial")]
    pub plateau: PlateauState,
    /// Updates whose loss or gradients were not finite.
    #[serde(default, skip_serializing_if = "NonfiniteRecord::is_empty")]
    pub nonfinite: NonfiniteRecord,
}

/// Updates of a run whose loss or gradients were not finite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonfiniteRecord {
    /// Number of skipped updates.
    pub skipped: u64,
    /// Skipped updates since the last one that was not skipped.
    pub successive: u64,
    /// Epoch and first batch of each update that is left out since the run returned to a checkpoint.
    pub left_out: Vec<(u32, usize)>,
}

impl NonfiniteRecord {
    /// True if every update was finite.
    pub fn is_empty(&self) -> bool {
        *self == NonfiniteRecord::default()
    }
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

    /// Moves to the start of an epoch, as by `--start-epoch`: forgets the metrics of that epoch and later ones.
    pub fn start_at(&mut self, epoch: u32, updates_per_epoch: u64) {
        self.history.retain(|row| row.epoch < epoch);
        (self.epoch, self.batch, self.loss_sum) = (epoch, 0, 0.0);
        self.update = u64::from(epoch) * updates_per_epoch;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(epoch: u32, top1: f64, loss: f64) -> EpochMetrics {
        EpochMetrics {
            epoch,
            train_loss: 0.0,
            eval_loss: loss,
            eval_top1: top1,
            eval_top5: 0.0,
            lr: 0.1,
            ..EpochMetrics::default()
        }
    }

    #[test]
    fn earliest_of_equal_epochs_is_best() {
        let state = TrainerState {
            history: vec![row(0, 50.0, 1.0), row(1, 60.0, 0.9), row(2, 60.0, 0.8)],
            ..TrainerState::default()
        };
        assert_eq!(state.best(EvalMetric::Top1).map(|r| r.epoch), Some(1));
        assert_eq!(state.best(EvalMetric::Loss).map(|r| r.epoch), Some(2));
        assert_eq!(TrainerState::default().best(EvalMetric::Loss), None);
    }

    #[test]
    fn start_epoch_forgets_later_epochs() {
        let history = vec![row(0, 50.0, 1.0), row(1, 60.0, 0.9)];
        let mut state = TrainerState {
            epoch: 2,
            batch: 3,
            update: 13,
            loss_sum: 4.0,
            history,
            ..TrainerState::default()
        };
        state.start_at(1, 5);
        assert_eq!((state.epoch, state.batch, state.update, state.loss_sum), (1, 0, 5, 0.0));
        assert_eq!(state.history.len(), 1);
    }
}
