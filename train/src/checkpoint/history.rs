//! Retention of a run's checkpoints, by timm's rules.
use std::cmp::Ordering;

/// The ranked checkpoints `checkpoint-EPOCH` of a run: those of the best epochs. Among equals the earlier epochs rank higher. Epochs
/// without a metric rank below all others, the latest first.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointHistory {
    capacity: usize,
    lower_is_better: bool,
    /// Epochs and metrics, best first.
    ranked: Vec<(u32, Option<f64>)>,
    best: Option<(u32, f64)>,
}

impl CheckpointHistory {
    /// Creates an empty history of at most `capacity` checkpoints.
    pub fn new(capacity: usize, lower_is_better: bool) -> CheckpointHistory {
        CheckpointHistory { capacity, lower_is_better, ranked: vec![], best: None }
    }

    /// Adds an epoch. If the history is full, it enters only in place of a worse one.
    pub fn insert(&mut self, epoch: u32, metric: Option<f64>) {
        if let Some(value) = metric
            && self.best.is_none_or(|(_, best)| self.order(value, best) == Ordering::Less)
        {
            self.best = Some((epoch, value));
        }
        self.ranked.push((epoch, metric));
        let mut ranked = std::mem::take(&mut self.ranked);
        ranked.sort_by(|a, b| match (a.1, b.1) {
            (Some(x), Some(y)) => self.order(x, y).then(a.0.cmp(&b.0)),
            (None, None) => b.0.cmp(&a.0),
            (x, y) => y.is_some().cmp(&x.is_some()),
        });
        ranked.truncate(self.capacity);
        self.ranked = ranked;
    }

    /// Epochs of the ranked checkpoints, best first.
    pub fn epochs(&self) -> impl Iterator<Item = u32> {
        self.ranked.iter().map(|(epoch, _)| *epoch)
    }

    /// The best epoch and its metric, the earliest of equals.
    pub fn best(&self) -> Option<(u32, f64)> {
        self.best
    }

    /// The better metric is less.
    fn order(&self, a: f64, b: f64) -> Ordering {
        if self.lower_is_better { a.total_cmp(&b) } else { b.total_cmp(&a) }
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
