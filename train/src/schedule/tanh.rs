//! A hyperbolic tangent from the peak to the end value.
use super::{Cycles, Place};

/// `min + (peak - min) (1 - tanh(-7 (1 - x) + 3 x)) / 2` with `x = t / T` (Hsueh et al., "Stochastic gradient descent with hyperbolic-tangent
/// decay", 2019): near the peak for more than half of the time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tanh {
    /// How often.
    pub cycles: Cycles,
    /// At the end, nearly.
    pub min_lr: f64,
}

/// Where the tangent begins and ends.
const BOUNDS: [f64; 2] = [-7.0, 3.0];

impl Tanh {
    pub(super) fn at(&self, place: &Place) -> f64 {
        let (min, [lower, upper]) = (self.min_lr, BOUNDS);
        self.cycles.position(place).map_or(min, |p| {
            let x = p.t / p.length;
            min + 0.5 * (p.peak - min) * (1.0 - (lower * (1.0 - x) + upper * x).tanh())
        })
    }
}
