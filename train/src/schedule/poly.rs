//! A power of the time that remains.
use super::{Cycles, Place};

/// `min + (peak - min) (1 - t^k / T^k)^power`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Poly {
    /// How often.
    pub cycles: Cycles,
    /// At the end.
    pub min_lr: f64,
    /// 1 for a straight line; below, the rate stays high for longer. timm's flag for it is `--decay-rate`.
    pub power: f64,
    /// The exponent `k`.
    pub k_decay: f64,
}

impl Poly {
    pub(super) fn at(&self, place: &Place) -> f64 {
        let (min, k) = (self.min_lr, self.k_decay);
        self.cycles
            .position(place)
            .map_or(min, |p| min + (p.peak - min) * (1.0 - p.t.powf(k) / p.length.powf(k)).powf(self.power))
    }
}
