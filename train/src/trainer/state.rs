//! Progress of a run, as saved in checkpoints.
use super::bad_images::BadImageIndices;
use crate::report::EpochMetrics;
use crate::schedule::PlateauState;
use crate::settings::EvalMetric;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

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
    /// Finished batches of the current epoch whose loss is not in the sum: their updates were skipped or are omitted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uncounted: usize,
    /// Metrics of each evaluated epoch.
    pub history: Vec<EpochMetrics>,
    /// State of the `plateau` schedule.
    #[serde(default, skip_serializing_if = "PlateauState::is_initial")]
    pub plateau: PlateauState,
    /// Updates whose loss or gradients were not finite.
    #[serde(default, skip_serializing_if = "NonfiniteRecord::is_empty")]
    pub nonfinite: NonfiniteRecord,
    /// Bad images that were met so far.
    #[serde(default, skip_serializing_if = "BadImageIndices::is_empty")]
    pub bad_images: BadImageIndices,
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl TrainerState {
    /// Mean loss of the current epoch's finished batches, skipped ones not counted; 0 if there are none.
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum / self.batch.saturating_sub(self.uncounted).max(1) as f64
    }

    /// Starts an epoch of which no batch is finished.
    pub fn begin_epoch(&mut self, epoch: u32) {
        (self.epoch, self.batch, self.loss_sum, self.uncounted) = (epoch, 0, 0.0, 0);
    }

    /// The best epoch by a metric; of equals the one with the lower validation loss, then the earliest.
    pub fn best(&self, metric: EvalMetric) -> Option<&EpochMetrics> {
        self.history.iter().reduce(|best, row| match metric.compare(row, best) {
            Ordering::Less => row,
            _ => best,
        })
    }

    /// Moves to the start of an epoch, as by `--start-epoch`: forgets the metrics of that epoch and later ones.
    pub fn start_at(&mut self, epoch: u32, updates_per_epoch: u64) {
        self.history.retain(|row| row.epoch < epoch);
        self.begin_epoch(epoch);
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
    fn of_equal_epochs_the_one_with_the_lower_loss_is_best() {
        let history = vec![row(0, 50.0, 0.1), row(1, 60.0, 0.9), row(2, 60.0, 0.8), row(3, 60.0, 0.8)];
        let mut state = TrainerState { history, ..TrainerState::default() };
        assert_eq!(state.best(EvalMetric::Top1).map(|r| r.epoch), Some(2), "the earliest of equal losses");
        state.history.remove(0);
        assert_eq!(state.best(EvalMetric::Loss).map(|r| r.epoch), Some(2));
        assert_eq!(TrainerState::default().best(EvalMetric::Loss), None);
    }

    #[test]
    fn state_without_bad_images_has_the_form_of_older_checkpoints() {
        let older = r#"{"epoch":1,"batch":2,"update":3,"loss_sum":0.5,"history":[]}"#;
        let state: TrainerState = serde_json::from_str(older).expect("an older state");
        assert!(state.bad_images.is_empty());
        assert_eq!(serde_json::to_string(&state).expect("JSON"), older);
        let bad_images = BadImageIndices { training: vec![7, 9], validation: vec![] };
        let state = TrainerState { bad_images, ..state };
        let text = serde_json::to_string(&state).expect("JSON");
        assert_eq!(serde_json::from_str::<TrainerState>(&text).expect("a state"), state);
    }

    #[test]
    fn skipped_first_batch_does_not_lower_the_mean_loss() {
        let state = TrainerState { batch: 3, loss_sum: 5.0, uncounted: 1, ..TrainerState::default() };
        assert_eq!(state.mean_loss(), 2.5);
        assert_eq!(TrainerState { batch: 1, uncounted: 1, ..TrainerState::default() }.mean_loss(), 0.0);
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
