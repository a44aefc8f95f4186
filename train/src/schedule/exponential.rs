//! A factor every epoch.
use super::Place;

/// `lr rate^epoch`; between epochs too when the rate changes on updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exponential {
    /// The factor.
    pub decay_rate: f64,
}

impl Exponential {
    pub(super) fn at(&self, place: &Place) -> f64 {
        place.lr * self.decay_rate.powf(place.t / place.epoch)
    }
}
