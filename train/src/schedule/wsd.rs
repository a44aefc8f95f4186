//! WSD: warmup, a stable phase, and a final decay (Hu et al., "MiniCPM", 2024; Hägele et al., "Scaling laws and compute-optimal
//! training beyond fixed training durations", 2024; Zhai et al., "Scaling vision transformers", 2022).
use super::{CurveTime, DecayFn};
use std::f64::consts::PI;

/// The stable phase's learning rate; from `T - D` on, its excess over `min_lr` is multiplied by the decay function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wsd {
    /// The stable phase.
    pub stable: StablePhase,
    /// Length `D` of the decay in epochs; if below 1, a fraction of stable phase and decay together.
    pub decay_epochs: f64,
    /// Decay function.
    pub decay_fn: DecayFn,
    /// Learning rate at the end.
    pub min_lr: f64,
}

/// Learning rate of the stable phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StablePhase {
    /// The peak learning rate.
    Constant,
    /// `lr / sqrt(1 + t / timescale)`.
    ReciprocalRoot {
        /// Timescale in epochs; `None` for the length of the warmup.
        timescale: Option<f64>,
    },
}

impl Wsd {
    /// Length of the decay, rounded, in the unit of `length`.
    pub(super) fn decay_length(&self, length: f64, epoch: f64) -> f64 {
        let unit = if self.decay_epochs < 1.0 { length } else { epoch };
        (self.decay_epochs * unit).round_ties_even()
    }

    pub(super) fn at(&self, time: &CurveTime) -> f64 {
        let stable = match self.stable {
            StablePhase::Constant => time.lr,
            StablePhase::ReciprocalRoot { timescale } => {
                let timescale = timescale.map_or(time.warmup, |epochs| epochs * time.epoch);
                time.lr * (1.0 + time.t / timescale).powf(-0.5)
            }
        };
        let stable = stable.max(self.min_lr);
        let decay = self.decay_length(time.length, time.epoch);
        let since = time.t - (time.length - decay);
        if since <= 0.0 {
            return stable;
        }
        self.min_lr + (stable - self.min_lr) * self.decay_fn.at((since / decay).min(1.0))
    }
}

impl DecayFn {
    /// Remaining factor after the fraction `x` of the decay.
    fn at(self, x: f64) -> f64 {
        /// End value of the exponential before it is shifted to 0.
        const RATIO: f64 = 0.1;
        match self {
            DecayFn::Linear => 1.0 - x,
            // The exponent of timm's `power` is 0.5 unless a program sets it.
            DecayFn::OneMinusSqrt | DecayFn::Power => 1.0 - x.sqrt(),
            DecayFn::Cosine => 0.5 * (1.0 + (PI * x).cos()),
            DecayFn::Exp => (RATIO.powf(x) - RATIO) / (1.0 - RATIO),
        }
    }
}
