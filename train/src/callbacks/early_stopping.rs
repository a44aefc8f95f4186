//! End of a run without progress.
use super::{Callback, EpochEnd, TrainBegin};
use crate::Result;
use crate::message::count;
use crate::settings::EvalMetric;
use crate::trainer::TrainerState;

/// Ends the run after a number of evaluations without a new best metric. It depends on the run's history alone, so a resumed run ends at the
/// same epoch.
#[derive(Clone, Debug)]
pub struct EarlyStopping {
    metric: EvalMetric,
    patience: usize,
    reason: Option<String>,
}

impl EarlyStopping {
    /// Creates the callback; `patience` is the number of evaluations without improvement.
    pub fn new(metric: EvalMetric, patience: u32) -> EarlyStopping {
        EarlyStopping { metric, patience: patience as usize, reason: None }
    }

    fn observe(&mut self, state: &TrainerState) {
        // An equal metric is no improvement, whatever its loss: the earliest of equals counts. Otherwise a run whose accuracy stays the same
        // would continue for as long as its loss falls.
        let (value, lower) = (|row| self.metric.value(row), self.metric.lower_is_better());
        let improves = |row, best| if lower { value(row) < value(best) } else { value(row) > value(best) };
        let best = state.history.iter().reduce(|best, row| if improves(row, best) { row } else { best });
        let Some(best) = best else { return };
        let since = state.history.iter().filter(|row| row.epoch > best.epoch).count();
        self.reason = (since >= self.patience).then(|| {
            format!("no improvement in {} since epoch {}", count(since as u64, "evaluation"), best.epoch)
        });
    }
}

impl Callback for EarlyStopping {
    fn on_train_begin(&mut self, event: &TrainBegin) -> Result<()> {
        self.observe(event.state);
        Ok(())
    }

    fn on_epoch_end(&mut self, event: &EpochEnd) -> Result<()> {
        self.observe(event.state);
        Ok(())
    }

    fn stop_reason(&self) -> Option<String> {
        self.reason.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::EpochMetrics;

    #[test]
    fn run_ends_after_patience_evaluations_without_a_new_best() {
        let row = |(epoch, loss): (usize, &f64)| EpochMetrics {
            epoch: epoch as u32,
            train_loss: 0.0,
            eval_loss: *loss,
            eval_top1: 0.0,
            eval_top5: 0.0,
            lr: 0.1,
            ..EpochMetrics::default()
        };
        let stops_by = |metric, losses: &[f64]| {
            let history = losses.iter().enumerate().map(row).collect();
            let mut callback = EarlyStopping::new(metric, 2);
            callback.observe(&TrainerState { history, ..TrainerState::default() });
            callback.stop_reason().is_some()
        };
        let stops = |losses: &[f64]| stops_by(EvalMetric::Loss, losses);
        assert!(!stops(&[]));
        assert!(!stops(&[1.0, 1.1]));
        assert!(stops(&[1.0, 1.1, 1.0]));
        assert!(!stops(&[1.0, 1.1, 0.9]));
        // Equal accuracies and a falling loss.
        assert!(stops_by(EvalMetric::Top1, &[1.0, 0.9, 0.8]));
    }
}
