//! A factor every so many epochs.
use super::Place;

/// `lr rate^floor(t / interval)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The interval; it need not be whole.
    pub decay_epochs: f64,
    /// The factor.
    pub decay_rate: f64,
}

impl Step {
    pub(super) fn at(&self, place: &Place) -> f64 {
        let interval = self.decay_epochs * place.epoch;
        // As Python floors: by the remainder, which is exact.
        let steps = ((place.t - place.t.rem_euclid(interval)) / interval).round();
        place.lr * self.decay_rate.powf(steps)
    }
}
