//! Noise on the learning rate.
use fornax_engine::random::{RngKey, RngStream};

/// Multiplies rates by `1 + n`, with `n` normal and redrawn until its magnitude is below a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Where it begins, as a share of the schedule's epochs.
    pub from: f64,
    /// Where it ends; `None` for never.
    pub to: Option<f64>,
    /// The limit.
    pub pct: f64,
    /// The standard deviation.
    pub std: f64,
    /// Of the draws, which depend on nothing else but the time.
    pub seed: u64,
}

impl Noise {
    /// Draws that are rejected before the limit is taken to be far below the standard deviation.
    const DRAWS: u32 = 1000;

    /// Whether there is noise at `t`, when the schedule has `length`.
    pub(super) fn covers(&self, t: f64, length: f64) -> bool {
        self.from * length <= t && self.to.is_none_or(|to| t < to * length)
    }

    /// The noise at `t`.
    pub(super) fn draw(&self, t: u64) -> f64 {
        let mut stream = RngStream::new(RngKey::new(self.seed, "lr noise"), 0, t);
        let mut draws = (0..Self::DRAWS).map(|_| f64::from(stream.normal()) * self.std);
        match draws.find(|n| n.abs() < self.pct) {
            Some(noise) => noise,
            // That close to its middle a normal distribution is flat.
            None => (2.0 * f64::from(stream.uniform()) - 1.0) * self.pct,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_normal_within_the_limit_and_depend_on_time_and_seed_alone() {
        let noise = Noise { from: 0.0, to: None, pct: 0.67, std: 1.0, seed: 42 };
        let draws: Vec<f64> = (0..4000).map(|t| noise.draw(t)).collect();
        assert!(draws.iter().all(|n| n.abs() < 0.67));
        assert_eq!(draws[7], noise.draw(7));
        assert_ne!(draws[7], Noise { seed: 43, ..noise }.draw(7));
        let mean = draws.iter().sum::<f64>() / 4000.0;
        let variance = draws.iter().map(|n| n * n).sum::<f64>() / 4000.0;
        // A normal distribution cut off at 0.67 has variance 0.138.
        assert!(mean.abs() < 0.02 && (variance - 0.138).abs() < 0.01, "{mean}, {variance}");
        let narrow = Noise { pct: 1e-6, ..noise };
        assert!((0..50).all(|t| narrow.draw(t).abs() <= 1e-6));
    }
}
