//! A power of the remaining time.
use super::{CurveTime, Cycles};

/// `min + (peak - min) (1 - t^k / T^k)^power`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Poly {
    /// Cycles.
    pub cycles: Cycles,
    /// Learning rate at the end.
    pub min_lr: f64,
    /// 1 for a linear decay; below 1 the learning rate stays high for longer. timm's flag is `--decay-rate`.
    pub power: f64,
    /// The k-decay exponent `k`.
    pub k_decay: f64,
}

impl Poly {
    pub(super) fn at(&self, time: &CurveTime) -> f64 {
        let (min, k) = (self.min_lr, self.k_decay);
        self.cycles
            .position(time)
            .map_or(min, |p| min + (p.peak - min) * (1.0 - p.t.powf(k) / p.length.powf(k)).powf(self.power))
    }
}
