//! A factor every epoch.
use super::CurveTime;

/// `lr * decay_rate^epoch`, with a fractional epoch if the schedule steps on updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exponential {
    /// Decay factor per epoch.
    pub decay_rate: f64,
}

impl Exponential {
    pub(super) fn at(&self, place: &CurveTime) -> f64 {
        place.lr * self.decay_rate.powf(place.t / place.epoch)
    }
}
