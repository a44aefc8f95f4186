//! Retention of a run's checkpoints, by timm's rules; of equal metrics the lower loss ranks higher.
use std::cmp::Ordering;

/// The ranked checkpoints `checkpoint-EPOCH` of a run: those of the best epochs. Among equals the lower loss ranks higher, then the earlier
/// epoch. Epochs without a metric rank below all others, the latest first.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointHistory {
    capacity: usize,
    lower_is_better: bool,
    /// Best first.
    ranked: Vec<RankedEpoch>,
    best: Option<RankedEpoch>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct RankedEpoch {
    epoch: u32,
    metric: Option<f64>,
    loss: f64,
}

impl CheckpointHistory {
    /// Creates an empty history of at most `capacity` checkpoints.
    pub fn new(capacity: usize, lower_is_better: bool) -> CheckpointHistory {
        CheckpointHistory { capacity, lower_is_better, ranked: vec![], best: None }
    }

    /// Adds an epoch with its metric and its validation loss. If the history is full, it enters only in place of a worse one.
    pub fn insert(&mut self, epoch: u32, metric: Option<f64>, loss: f64) {
        let added = RankedEpoch { epoch, metric, loss };
        if metric.is_some() && self.best.is_none_or(|best| self.order(&added, &best) == Ordering::Less) {
            self.best = Some(added);
        }
        self.ranked.push(added);
        let mut ranked = std::mem::take(&mut self.ranked);
        ranked.sort_by(|a, b| match (a.metric, b.metric) {
            (Some(_), Some(_)) => self.order(a, b),
            (None, None) => b.epoch.cmp(&a.epoch),
            (x, y) => y.is_some().cmp(&x.is_some()),
        });
        ranked.truncate(self.capacity);
        self.ranked = ranked;
    }

    /// Epochs of the ranked checkpoints, best first.
    pub fn epochs(&self) -> impl Iterator<Item = u32> {
        self.ranked.iter().map(|ranked| ranked.epoch)
    }

    /// The best epoch and its metric; of equals the one with the lower loss, then the earliest.
    pub fn best(&self) -> Option<(u32, f64)> {
        self.best.and_then(|best| Some((best.epoch, best.metric?)))
    }

    /// Order of epochs with a metric; the better one is less.
    fn order(&self, a: &RankedEpoch, b: &RankedEpoch) -> Ordering {
        let by_metric = a.metric.unwrap_or_default().total_cmp(&b.metric.unwrap_or_default());
        let by_metric = if self.lower_is_better { by_metric } else { by_metric.reverse() };
        by_metric.then(a.loss.total_cmp(&b.loss)).then(a.epoch.cmp(&b.epoch))
    }
}

/// Number of recovery checkpoints that are kept.
pub const RECOVERY_CHECKPOINTS: usize = 2;

/// The recovery checkpoints to remove: all but the newest, given epochs and batches.
pub fn outdated_recovery(mut existing: Vec<(u32, usize)>) -> Vec<(u32, usize)> {
    existing.sort();
    existing.truncate(existing.len().saturating_sub(RECOVERY_CHECKPOINTS));
    existing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_loss_wins_among_equal_metrics() {
        let mut history = CheckpointHistory::new(2, false);
        for (epoch, metric, loss) in [(0, 70.0, 0.2), (1, 80.0, 0.9), (2, 80.0, 0.8), (3, 80.0, 0.85)] {
            history.insert(epoch, Some(metric), loss);
        }
        assert_eq!(history.epochs().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(history.best(), Some((2, 80.0)));
    }
}
