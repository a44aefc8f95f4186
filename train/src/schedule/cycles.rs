//! Cycles: a curve that starts again, longer and lower.
use super::Place;

/// How often a curve is run through, and how that changes it (Loshchilov and Hutter, "SGDR", 2017).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cycles {
    /// Each cycle is so many times as long as the one before; above 0.
    pub mul: f64,
    /// The peak of each cycle is so many times that of the one before.
    pub decay: f64,
    /// Cycles in all; after the last the rate is at its end value.
    pub limit: u32,
}

impl Default for Cycles {
    /// One.
    fn default() -> Cycles {
        Cycles { mul: 1.0, decay: 1.0, limit: 1 }
    }
}

/// Where in a cycle.
pub(super) struct Position {
    /// Since the cycle began.
    pub t: f64,
    /// Of the cycle.
    pub length: f64,
    /// Of the cycle.
    pub peak: f64,
}

impl Cycles {
    /// Epochs of all cycles, when the first has so many.
    pub fn epochs(&self, first: u32) -> u32 {
        let (first, limit) = (f64::from(first), f64::from(self.limit));
        let total = match self.mul {
            1.0 => first * limit,
            mul => -first * (mul.powf(limit) - 1.0) / (1.0 - mul),
        };
        total.floor() as u32
    }

    /// Where `place` lies; `None` after the last cycle.
    pub(super) fn position(&self, place: &Place) -> Option<Position> {
        let (t, first) = (place.t, place.length);
        let (cycle, length, begin) = match self.mul {
            1.0 => {
                let cycle = (t / first).floor();
                (cycle, first, first * cycle)
            }
            mul => {
                // timm's expressions: at the very border of two cycles the logarithm decides.
                let cycle = ((1.0 - t / first * (1.0 - mul)).ln() / mul.ln()).floor();
                let longer = mul.powf(cycle);
                (cycle, longer * first, (1.0 - longer) / (1.0 - mul) * first)
            }
        };
        // NaN when shrinking cycles end before `t`.
        (cycle < f64::from(self.limit)).then(|| Position {
            t: t - begin,
            length,
            peak: place.lr * self.decay.powf(cycle),
        })
    }
}
