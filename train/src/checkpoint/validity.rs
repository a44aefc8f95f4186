//! Validity of a checkpoint's metadata: values that no run writes are errors.
use super::CheckpointHeader;
use crate::trainer::TrainerState;

/// Largest number of ranks.
const MAX_RANKS: usize = 1 << 20;
/// Largest number of batches and updates: every whole number up to it is an `f64`.
const MAX_COUNT: u64 = 1 << 53;

impl CheckpointHeader {
    /// Checks the values of every field. The error names the field.
    pub(super) fn check(&self) -> Result<(), String> {
        self.settings.check_values().map_err(|why| format!("its settings: {why}"))?;
        let state = &self.state;
        let is_image_size = |size: [usize; 3]| size.iter().all(|side| (1..=1 << 14).contains(side));
        let statistics = &self.statistics;
        let is_normal = |std: &f32| std.is_finite() && *std > 0.0;
        let checks = [
            ("world_size", (1..=MAX_RANKS).contains(&self.world_size)),
            ("image_size", self.image_size.is_none_or(is_image_size)),
            ("statistics.white", statistics.white > 0),
            ("statistics.mean", statistics.mean.iter().all(|mean| mean.is_finite())),
            (
                "statistics.std",
                statistics.std.len() == statistics.mean.len() && statistics.std.iter().all(is_normal),
            ),
            ("batch", state.batch as u64 <= MAX_COUNT),
            ("update", state.update <= MAX_COUNT),
            ("uncounted", state.uncounted <= state.batch),
            ("loss_sum", state.loss_sum.is_finite()),
            ("history", has_possible_history(state)),
            ("plateau", is_factor(state.plateau.scale) && state.plateau.best.is_none_or(f64::is_finite)),
            (
                "nonfinite",
                state.nonfinite.skipped <= MAX_COUNT && state.nonfinite.successive <= state.nonfinite.skipped,
            ),
        ];
        match checks.iter().find(|(_, is_valid)| !is_valid) {
            None => Ok(()),
            Some((field, _)) => Err(format!("its state: the value of {field} is not possible")),
        }
    }
}

/// True if the epochs of the history are finished and in order, and their metrics are numbers in their ranges.
fn has_possible_history(state: &TrainerState) -> bool {
    let is_percentage = |value: f64| (0.0..=100.0).contains(&value);
    state.history.is_sorted_by(|a, b| a.epoch < b.epoch)
        && state.history.iter().all(|row| {
            let of_model = [row.model_eval_top1, row.model_eval_top5].into_iter().flatten();
            row.epoch < state.epoch
                && [row.eval_top1, row.eval_top5].into_iter().chain(of_model).all(is_percentage)
                && [row.train_loss, row.eval_loss].into_iter().chain(row.model_eval_loss).all(f64::is_finite)
                && row.lr.is_finite()
        })
}

/// True for a factor of the learning rate.
fn is_factor(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}
