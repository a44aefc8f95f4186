//! A factor every epoch.
use super::CurveTime;

/// `lr * decay_rate^epoch`, with a fractional epoch if the schedule steps on updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exponential {
    /// Decay factor per epoch.
    pub decay_rate: f64,
}

impl Exponential {
    pub(super) fn at(&self, time: &CurveTime) -> f64 {
        time.lr * self.decay_rate.powf(time.t / time.epoch)
    }
}
