//! Half a cosine from the peak to the end value.
use super::{CurveTime, Cycles};
use std::f64::consts::PI;

/// `min + (peak - min) (1 + cos(pi t^k / T^k)) / 2` (Loshchilov and Hutter, "SGDR", 2017; k-decay: Zhang and Li, 2020).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cosine {
    /// Cycles.
    pub cycles: Cycles,
    /// Learning rate at the end.
    pub min_lr: f64,
    /// The exponent `k`: above 1 the learning rate stays high for longer.
    pub k_decay: f64,
}

impl Cosine {
    pub(super) fn at(&self, time: &CurveTime) -> f64 {
        let (min, k) = (self.min_lr, self.k_decay);
        self.cycles
            .position(time)
            .map_or(min, |p| min + 0.5 * (p.peak - min) * (1.0 + (PI * p.t.powf(k) / p.length.powf(k)).cos()))
    }
}
