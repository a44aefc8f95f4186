//! A factor at given epochs.
use super::CurveTime;

/// `lr * decay_rate^(number of milestones m <= t + 1)`: as in timm, a milestone takes effect an epoch (or an update) early.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiStep {
    /// Epochs in ascending order.
    pub milestones: Vec<u32>,
    /// Decay factor.
    pub decay_rate: f64,
}

impl MultiStep {
    pub(super) fn at(&self, time: &CurveTime) -> f64 {
        let passed = |m: &&u32| f64::from(**m) * time.epoch <= time.t + 1.0;
        time.lr * self.decay_rate.powi(self.milestones.iter().filter(passed).count() as i32)
    }
}
