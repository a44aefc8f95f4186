//! Warm-up, a stable phase, and a decay at the end (Hu et al., "MiniCPM", 2024; Hägele et al., "Scaling laws and compute-optimal
//! training beyond fixed training durations", 2024; Zhai et al., "Scaling vision transformers", 2022).
use super::{DecayFn, Place};
use std::f64::consts::PI;

/// The rate of the stable phase, and from `T - D` on what a factor leaves of it above the end value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wsd {
    /// The stable phase.
    pub stable: Stable,
    /// Length of the decay `D`: epochs, or below 1 a share of stable phase and decay together.
    pub decay_epochs: f64,
    /// How the decay goes from 1 to 0.
    pub decay_fn: DecayFn,
    /// At the end.
    pub min_lr: f64,
}

/// A stable phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stable {
    /// The peak.
    Constant,
    /// `lr / sqrt(1 + t / timescale)`.
    ReciprocalRoot {
        /// In epochs; that of the warm-up by default.
        timescale: Option<f64>,
    },
}

impl Wsd {
    /// Length of the decay in the unit of `length`, which is whole.
    pub(super) fn decay_length(&self, length: f64, epoch: f64) -> f64 {
        let unit = if self.decay_epochs < 1.0 { length } else { epoch };
        (self.decay_epochs * unit).round_ties_even()
    }

    pub(super) fn at(&self, place: &Place) -> f64 {
        let stable = match self.stable {
            Stable::Constant => place.lr,
            Stable::ReciprocalRoot { timescale } => {
                let timescale = timescale.map_or(place.warmup, |epochs| epochs * place.epoch);
                place.lr * (1.0 + place.t / timescale).powf(-0.5)
            }
        };
        let stable = stable.max(self.min_lr);
        let decay = self.decay_length(place.length, place.epoch);
        let since = place.t - (place.length - decay);
        if since <= 0.0 {
            return stable;
        }
        self.min_lr + (stable - self.min_lr) * self.decay_fn.at((since / decay).min(1.0))
    }
}

impl DecayFn {
    /// What is left when `x` of the decay is over.
    fn at(self, x: f64) -> f64 {
        /// Where the exponential stands at the end, before it is brought to 0.
        const RATIO: f64 = 0.1;
        match self {
            DecayFn::Linear => 1.0 - x,
            DecayFn::Root => 1.0 - x.sqrt(),
            DecayFn::Cosine => 0.5 * (1.0 + (PI * x).cos()),
            DecayFn::Exp => (RATIO.powf(x) - RATIO) / (1.0 - RATIO),
        }
    }
}
