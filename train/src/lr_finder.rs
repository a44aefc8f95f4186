//! Learning-rate range test (Smith, "Cyclical learning rates for training neural networks", 2017): a few updates with exponentially rising
//! learning rates. The loss falls fastest at a good peak learning rate and diverges beyond it.
use crate::Result;
use crate::experiment::Experiment;
use crate::short_run::train_updates;

/// Weight of the past in the smoothed loss.
const SMOOTHING: f64 = 0.95;
/// Ratio of the smoothed loss to its minimum at which the test ends.
const DIVERGENCE: f64 = 4.0;
/// Updates at the start that the suggestion ignores, as a fraction: the smoothed loss has little history there.
const IGNORED: f64 = 0.05;
/// Half of the regression's window, as a fraction of the updates.
const HALF_WINDOW: f64 = 0.1;

/// Range of a learning-rate range test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LrRange {
    /// First learning rate.
    pub start: f64,
    /// Learning rate of the last update.
    pub end: f64,
    /// Number of updates, at least 2.
    pub updates: u64,
}

/// Losses of a learning-rate range test.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LrCurve {
    /// Learning rate of each update.
    pub lr: Vec<f64>,
    /// Training loss of each update.
    pub loss: Vec<f64>,
    /// Exponentially smoothed loss, with bias correction.
    pub smoothed: Vec<f64>,
    /// The loss diverged, so that the test ended before the last update.
    pub diverged: bool,
}

impl LrRange {
    /// Learning rate of an update, counted from 0.
    pub fn at(&self, update: u64) -> f64 {
        let exponent = update as f64 / (self.updates - 1).max(1) as f64;
        self.start * (self.end / self.start).powf(exponent)
    }
}

impl LrCurve {
    /// Adds the loss of an update; false if it diverged.
    fn push(&mut self, lr: f64, loss: f64) -> bool {
        if !loss.is_finite() {
            self.diverged = true;
            return false;
        }
        let count = self.loss.len() as i32;
        let weight = |n: i32| 1.0 - SMOOTHING.powi(n);
        // The uncorrected average so far is the smoothed loss times its total weight.
        let before = self.smoothed.last().map_or(0.0, |last| last * weight(count));
        let smoothed = (SMOOTHING * before + (1.0 - SMOOTHING) * loss) / weight(count + 1);
        self.lr.push(lr);
        self.loss.push(loss);
        self.smoothed.push(smoothed);
        let lowest = self.smoothed.iter().copied().fold(f64::INFINITY, f64::min);
        self.diverged = count > 0 && smoothed > DIVERGENCE * lowest;
        !self.diverged
    }

    /// Range of the losses that a plot shows. A diverging loss would hide the rest of the curve, so the range ends at the highest smoothed
    /// loss before the lowest one; it begins at the lowest loss of a single update there.
    pub fn loss_range(&self) -> [f64; 2] {
        let smoothed = &self.smoothed;
        let lowest = (0..smoothed.len()).min_by(|a, b| smoothed[*a].total_cmp(&smoothed[*b]));
        let count = lowest.map_or(0, |lowest| lowest + 1);
        let high = smoothed[..count].iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let low = self.loss[..count].iter().chain(&smoothed[..count]).copied().fold(f64::INFINITY, f64::min);
        if count == 0 {
            return [0.0, 1.0];
        }
        let margin = 0.1 * (high - low).max(1e-3);
        [low - margin, high + margin]
    }

    /// The learning rate at which the smoothed loss falls fastest over the logarithm of the learning rate, by linear regression over a
    /// fifth of the updates, so that the noise of single batches does not decide; `None` if it never falls.
    pub fn suggestion(&self) -> Option<f64> {
        let count = self.smoothed.len();
        let half = (count as f64 * HALF_WINDOW) as usize;
        // The learning rates are equally far apart on a logarithmic axis.
        let slope = |centre: usize| -> f64 {
            let offset = |i: usize| i as f64 - centre as f64;
            (centre - half..=centre + half).map(|i| offset(i) * self.smoothed[i]).sum()
        };
        let first = half + (count as f64 * IGNORED) as usize;
        let steepest = (first..count.saturating_sub(half)).min_by(|a, b| slope(*a).total_cmp(&slope(*b)))?;
        (slope(steepest) < 0.0).then(|| self.lr[steepest])
    }
}

/// Runs the test on the model of an experiment, which is built if necessary. The model has no use after it.
pub fn find_lr(experiment: &mut Experiment, range: &LrRange) -> Result<LrCurve> {
    // The EMA has no part in the training loss.
    experiment.config.ema = None;
    let mut curve = LrCurve::default();
    let lr = |update: u64| (update < range.updates).then(|| range.at(update));
    train_updates(experiment, lr, |lr, loss| curve.push(lr, loss))?;
    Ok(curve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_losses_end_at_the_highest_before_the_lowest() {
        let curve = LrCurve {
            lr: vec![1e-3, 1e-2, 1e-1, 1.0],
            loss: vec![2.5, 0.8, 1.2, 90.0],
            smoothed: vec![2.4, 1.5, 1.0, 7.5],
            diverged: true,
        };
        let [low, high] = curve.loss_range();
        assert!(low < 0.8 && low > 0.5 && high > 2.4 && high < 2.7, "{low} to {high}");
        assert_eq!(LrCurve::default().loss_range(), [0.0, 1.0]);
    }

    fn curve(loss: impl Fn(f64) -> f64) -> LrCurve {
        let range = LrRange { start: 1e-6, end: 10.0, updates: 200 };
        let mut curve = LrCurve::default();
        (0..range.updates).map(|update| range.at(update)).take_while(|lr| curve.push(*lr, loss(*lr))).count();
        curve
    }

    #[test]
    fn learning_rates_rise_exponentially_between_the_ends() {
        let range = LrRange { start: 1e-4, end: 1.0, updates: 5 };
        let expected = [1e-4, 1e-3, 1e-2, 1e-1, 1.0];
        for (update, expected) in expected.into_iter().enumerate() {
            assert!((range.at(update as u64) / expected - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn smoothed_loss_of_a_constant_is_the_constant() {
        assert!(curve(|_| 2.5).smoothed.iter().all(|value| (value - 2.5).abs() < 1e-12));
    }

    #[test]
    fn suggestion_is_where_the_loss_falls_fastest() {
        // A sigmoid over the logarithm of the learning rate falls fastest at its centre; the smoothed loss lags behind.
        let centre = 1e-2f64;
        let found = curve(|lr| 2.0 / (1.0 + (2.0 * (lr / centre).ln()).exp()) + 0.5);
        let suggestion = found.suggestion().expect("it falls");
        assert!((centre..5.0 * centre).contains(&suggestion), "{suggestion}");
        assert!(!found.diverged);
        assert_eq!(curve(|lr| 1.0 + lr).suggestion(), None);
        assert_eq!(LrCurve::default().suggestion(), None);
    }

    #[test]
    fn single_batches_do_not_decide_the_suggestion() {
        // One outlier in the flat part makes the smoothed loss fall steeply after it.
        let spike = |lr: f64| if (2e-5..2.2e-5).contains(&lr) { 4.0 } else { 0.0 };
        let fall = |lr: f64| 2.0 / (1.0 + (2.0 * (lr / 1e-2f64).ln()).exp()) + 0.5;
        let suggestion = curve(|lr| fall(lr) + spike(lr)).suggestion().expect("it falls");
        assert!((1e-2..5e-2).contains(&suggestion), "{suggestion}");
    }

    #[test]
    fn divergence_ends_the_test() {
        let diverging = curve(|lr| if lr > 1.0 { 1e6 } else { 1.0 });
        assert!(diverging.diverged && diverging.lr.len() < 200);
        let broken = curve(|lr| if lr > 1.0 { f64::NAN } else { 1.0 });
        assert!(broken.diverged && broken.loss.iter().all(|loss| loss.is_finite()));
    }
}
