//! A hyperbolic tangent from the peak to the end value.
use super::{CurveTime, Cycles};

/// `min + (peak - min) (1 - tanh(-7 (1 - x) + 3 x)) / 2` with `x = t / T` (Hsueh et al., "Stochastic gradient descent with hyperbolic-tangent
/// decay", 2019): near the peak for more than half of the time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tanh {
    /// Cycles.
    pub cycles: Cycles,
    /// Learning rate that the end approaches.
    pub min_lr: f64,
}

/// Arguments of tanh at the start and the end.
const BOUNDS: [f64; 2] = [-7.0, 3.0];

impl Tanh {
    pub(super) fn at(&self, time: &CurveTime) -> f64 {
        let (min, [lower, upper]) = (self.min_lr, BOUNDS);
        self.cycles.position(time).map_or(min, |p| {
            let x = p.t / p.length;
            min + 0.5 * (p.peak - min) * (1.0 - (lower * (1.0 - x) + upper * x).tanh())
        })
    }
}
