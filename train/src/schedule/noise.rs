//! Learning-rate noise.
use fornax_engine::random::{RngKey, RngStream};

/// Multiplies the learning rate by `1 + n`, where `n` is normal and resampled until its magnitude is below a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Start, as a fraction of the schedule's epochs.
    pub from: f64,
    /// End, as a fraction of the schedule's epochs; `None` for no end.
    pub to: Option<f64>,
    /// Limit of the magnitude.
    pub pct: f64,
    /// Standard deviation.
    pub std: f64,
    /// Random seed; samples depend on it and the time alone.
    pub seed: u64,
}

impl Noise {
    /// Rejected samples after which the limit is assumed to be far below the standard deviation.
    const MAX_SAMPLES: u32 = 1000;

    /// True if there is noise at time `t` of a schedule of length `length`.
    pub(super) fn covers(&self, t: f64, length: f64) -> bool {
        self.from * length <= t && self.to.is_none_or(|to| t < to * length)
    }

    /// The noise at `t`.
    pub(super) fn sample(&self, t: u64) -> f64 {
        let mut stream = RngStream::new(RngKey::new(self.seed, "lr noise"), 0, t);
        let mut samples = (0..Self::MAX_SAMPLES).map(|_| f64::from(stream.normal()) * self.std);
        match samples.find(|n| n.abs() < self.pct) {
            Some(noise) => noise,
            // So close to its mean a normal distribution is flat.
            None => (2.0 * f64::from(stream.uniform()) - 1.0) * self.pct,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_truncated_normal_and_depend_on_time_and_seed() {
        let noise = Noise { from: 0.0, to: None, pct: 0.67, std: 1.0, seed: 42 };
        let samples: Vec<f64> = (0..4000).map(|t| noise.sample(t)).collect();
        assert!(samples.iter().all(|n| n.abs() < 0.67));
        assert_eq!(samples[7], noise.sample(7));
        assert_ne!(samples[7], Noise { seed: 43, ..noise }.sample(7));
        let mean = samples.iter().sum::<f64>() / 4000.0;
        let variance = samples.iter().map(|n| n * n).sum::<f64>() / 4000.0;
        // A normal distribution cut off at 0.67 has variance 0.138.
        assert!(mean.abs() < 0.02 && (variance - 0.138).abs() < 0.01, "{mean}, {variance}");
        let narrow = Noise { pct: 1e-6, ..noise };
        assert!((0..50).all(|t| narrow.sample(t).abs() <= 1e-6));
    }
}
