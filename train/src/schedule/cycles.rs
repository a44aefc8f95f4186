//! Cycles: restarts of a curve.
use super::CurveTime;

/// Number, lengths and peaks of the cycles of a curve (Loshchilov and Hutter, "SGDR", 2017).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cycles {
    /// Multiplier of the length from cycle to cycle; above 0.
    pub mul: f64,
    /// Multiplier of the peak from cycle to cycle.
    pub decay: f64,
    /// Number of cycles; after the last one the learning rate stays at its end value.
    pub limit: u32,
}

impl Default for Cycles {
    /// One cycle.
    fn default() -> Cycles {
        Cycles { mul: 1.0, decay: 1.0, limit: 1 }
    }
}

/// Position within a cycle.
pub(super) struct Position {
    /// Time since the start of the cycle.
    pub t: f64,
    /// Length of the cycle.
    pub length: f64,
    /// Peak of the cycle.
    pub peak: f64,
}

impl Cycles {
    /// Total epochs of all cycles, given the length of the first.
    pub fn epochs(&self, first: u32) -> u32 {
        let (first, limit) = (f64::from(first), f64::from(self.limit));
        let total = match self.mul {
            1.0 => first * limit,
            mul => -first * (mul.powf(limit) - 1.0) / (1.0 - mul),
        };
        total.floor() as u32
    }

    /// Position of `time` within its cycle; `None` after the last cycle.
    pub(super) fn position(&self, time: &CurveTime) -> Option<Position> {
        let (t, first) = (time.t, time.length);
        let (cycle, length, begin) = match self.mul {
            1.0 => {
                let cycle = (t / first).floor();
                (cycle, first, first * cycle)
            }
            mul => {
                // timm's expression: exactly at the boundary of two cycles, the rounding of the logarithm decides.
                let cycle = ((1.0 - t / first * (1.0 - mul)).ln() / mul.ln()).floor();
                let longer = mul.powf(cycle);
                (cycle, longer * first, (1.0 - longer) / (1.0 - mul) * first)
            }
        };
        // NaN when shrinking cycles end before `t`.
        (cycle < f64::from(self.limit)).then(|| Position {
            t: t - begin,
            length,
            peak: time.lr * self.decay.powf(cycle),
        })
    }
}
