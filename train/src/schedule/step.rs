//! A factor at a fixed interval.
use super::CurveTime;

/// `lr * decay_rate^floor(t / interval)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepDecay {
    /// Interval in epochs; may be fractional.
    pub decay_epochs: f64,
    /// Decay factor.
    pub decay_rate: f64,
}

impl StepDecay {
    pub(super) fn at(&self, time: &CurveTime) -> f64 {
        let interval = self.decay_epochs * time.epoch;
        // Floor division as in Python: by the remainder, which is exact.
        let steps = ((time.t - time.t.rem_euclid(interval)) / interval).round();
        time.lr * self.decay_rate.powf(steps)
    }
}
