//! Reduction of the learning rate when the metric stops improving.
use serde::{Deserialize, Serialize};

/// Reduces the learning rate when the metric has not improved for more than `patience` epochs in a row, as PyTorch's `ReduceLROnPlateau`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plateau {
    /// Decay factor.
    pub decay_rate: f64,
    /// Patience: epochs without improvement before a reduction.
    pub patience: u32,
    /// Lower bound of the learning rate.
    pub min_lr: f64,
    /// A lower metric is better.
    pub lower_is_better: bool,
}

/// State of a plateau schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlateauState {
    /// Multiplier of the learning rate.
    pub scale: f64,
    /// The best metric so far.
    pub best: Option<f64>,
    /// Epochs without improvement since the best metric or the last reduction.
    pub bad_epochs: u32,
}

impl Default for PlateauState {
    fn default() -> PlateauState {
        PlateauState { scale: 1.0, best: None, bad_epochs: 0 }
    }
}

/// Relative changes of the metric below this are no improvement.
const THRESHOLD: f64 = 1e-4;
/// Reductions of the learning rate below this are skipped (PyTorch's `eps`).
const MIN_REDUCTION: f64 = 1e-8;

impl PlateauState {
    /// True for the initial state, which other schedules never leave.
    pub fn is_initial(&self) -> bool {
        *self == PlateauState::default()
    }

    pub(super) fn observe(&mut self, plateau: &Plateau, lr: f64, metric: f64) {
        let better = |best: f64| match plateau.lower_is_better {
            true => metric < best * (1.0 - THRESHOLD),
            false => metric > best * (1.0 + THRESHOLD),
        };
        if self.best.map_or(!metric.is_nan(), better) {
            (self.best, self.bad_epochs) = (Some(metric), 0);
            return;
        }
        self.bad_epochs += 1;
        if self.bad_epochs > plateau.patience {
            let now = lr * self.scale;
            let next = (now * plateau.decay_rate).max(plateau.min_lr);
            if now - next > MIN_REDUCTION {
                self.scale = next / lr;
            }
            self.bad_epochs = 0;
        }
    }
}
