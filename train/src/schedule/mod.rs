//! Learning-rate schedules: pure functions of (epoch, update), as defined by timm's schedulers.
//!
//! [`create_scheduler`] creates a [`Schedule`] from a name and [`ScheduleOptions`]; [`Schedule::lr_at`] is the learning rate of an update.
//! With the time `t` in epochs or updates, counted from 0, and lengths in the same unit:
//!
//! 1. At `t = 0` the learning rate is `warmup_lr` if there is a warmup, else `lr`.
//! 2. During the warmup it rises linearly from `warmup_lr` to `lr`. **The warmup replaces the start of the curve**, so that the learning
//!    rate may jump at its end; with `warmup_prefix` the warmup precedes the curve and lengthens the run.
//! 3. After the warmup it follows the curve; each file of this folder defines one.
//! 4. Noise, if enabled, multiplies the result, also during the warmup.
//!
//! Surprising behaviour of timm, kept because published recipes depend on it:
//!
//! - a milestone of `multistep` takes effect an epoch (or an update) early, unlike in PyTorch;
//! - the power of `poly` is `decay_rate`, by default 0.1: the learning rate stays near its peak until the last epochs;
//! - `cooldown_epochs` lengthens cosine, tanh, poly, wsd and rsqrt only; Fornax rejects it elsewhere;
//! - the peak of a cycle is multiplied by `cycle_decay`, the end value is not;
//! - `plateau` ignores metrics of the warmup, and `t = warmup_epochs` still belongs to the warmup.
//!
//! Differences from timm:
//!
//! - `none` is `constant` without a warmup; layer-wise learning-rate scales apply to it too;
//! - `step` decays every 0.3 of the epochs by default, `multistep` at 0.3, 0.6 and 0.9: timm's 90, 180 and 270 of 300 epochs, but
//!   effective in shorter runs too;
//! - noise comes from Fornax's own generator, so its values are not timm's; they depend on `t` and the seed alone;
//! - the state of `plateau` is part of checkpoints, so that a resumed run continues exactly.
mod cosine;
mod cycles;
mod exponential;
mod expression;
mod multistep;
mod noise;
mod options;
mod plateau;
mod poly;
mod step;
mod tanh;
mod wsd;

pub use cosine::Cosine;
pub use cycles::Cycles;
pub use exponential::Exponential;
pub use expression::Expression;
pub use multistep::MultiStep;
pub use noise::Noise;
pub use options::{DecayFn, Sched, ScheduleOptions, create_scheduler};
pub use plateau::{Plateau, PlateauState};
pub use poly::Poly;
pub use step::StepDecay;
pub use tanh::Tanh;
pub use wsd::{StablePhase, Wsd};

/// Learning-rate schedule of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Curve after the warmup.
    pub curve: Curve,
    /// Peak learning rate.
    pub lr: f64,
    /// Length of the curve, or of its first cycle, in epochs.
    pub epochs: u32,
    /// Length of the warmup in epochs.
    pub warmup_epochs: u32,
    /// Learning rate at the start of the warmup.
    pub warmup_lr: f64,
    /// The warmup precedes the curve instead of replacing its start.
    pub warmup_prefix: bool,
    /// Epochs at the end value after the curve.
    pub cooldown_epochs: u32,
    /// Learning-rate noise.
    pub noise: Option<Noise>,
    /// Steps after every update instead of every epoch.
    pub on_updates: bool,
}

/// Curve of a schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum Curve {
    /// Constant peak learning rate.
    Constant,
    /// Half a cosine.
    Cosine(Cosine),
    /// A hyperbolic tangent.
    Tanh(Tanh),
    /// A power of the remaining time.
    Poly(Poly),
    /// A factor at a fixed interval.
    Step(StepDecay),
    /// A factor at given epochs.
    MultiStep(MultiStep),
    /// A factor every epoch.
    Exponential(Exponential),
    /// A factor given by an expression.
    Lambda(Expression),
    /// A stable phase, then a decay.
    Wsd(Wsd),
    /// A factor whenever the metric stops improving.
    Plateau(Plateau),
}

/// Time at which a curve is evaluated; all times are in epochs or in updates.
#[derive(Clone, Copy, Debug)]
struct CurveTime {
    /// Peak learning rate.
    lr: f64,
    /// Time since the start of the curve.
    t: f64,
    /// Length of the curve.
    length: f64,
    /// Length of an epoch.
    epoch: f64,
    /// Length of the warmup.
    warmup: f64,
}

impl Schedule {
    /// Total epochs: the curve with its cycles, a prefixed warmup, and the cooldown.
    pub fn total_epochs(&self) -> u32 {
        let prefix = if self.warmup_prefix { self.warmup_epochs } else { 0 };
        let cycles = match &self.curve {
            Curve::Cosine(Cosine { cycles, .. })
            | Curve::Tanh(Tanh { cycles, .. })
            | Curve::Poly(Poly { cycles, .. }) => cycles.epochs(self.epochs),
            _ => self.epochs,
        };
        cycles.saturating_add(prefix).saturating_add(self.cooldown_epochs)
    }

    /// Learning rate of update `update` (counted from 0 over the whole run) in `epoch`. For a plateau, multiply it by
    /// [`PlateauState::scale`].
    pub fn lr_at(&self, epoch: u32, update: u64, updates_per_epoch: u64) -> f64 {
        self.lr_at_with_noise(epoch, update, updates_per_epoch, |t| {
            self.noise.as_ref().map_or(0.0, |noise| noise.sample(t))
        })
    }

    /// As [`Schedule::lr_at`], with the noise at `t` given by `noise`.
    pub fn lr_at_with_noise(
        &self,
        epoch: u32,
        update: u64,
        updates_per_epoch: u64,
        noise: impl Fn(u64) -> f64,
    ) -> f64 {
        let (t, unit) =
            if self.on_updates { (update, updates_per_epoch as f64) } else { (u64::from(epoch), 1.0) };
        let lr = self.without_noise(t as f64, unit);
        let length = f64::from(self.epochs) * unit;
        let warm = matches!(self.curve, Curve::Plateau(_)) && t <= u64::from(self.warmup_epochs);
        match &self.noise {
            Some(range) if t > 0 && !warm && range.covers(t as f64, length) => lr + lr * noise(t),
            _ => lr,
        }
    }

    fn without_noise(&self, t: f64, unit: f64) -> f64 {
        let warmup = f64::from(self.warmup_epochs) * unit;
        if t < warmup {
            // Only tanh warms up to the value of its curve.
            let target = match &self.curve {
                Curve::Tanh(_) if !self.warmup_prefix => self.curve_at(warmup, warmup, unit),
                _ => self.lr,
            };
            return self.warmup_lr + t * ((target - self.warmup_lr) / warmup);
        }
        if t == 0.0 { self.lr } else { self.curve_at(t, warmup, unit) }
    }

    fn curve_at(&self, t: f64, warmup: f64, unit: f64) -> f64 {
        // The warmup of wsd and rsqrt always precedes the curve; without the prefix it shortens the curve.
        let before = self.warmup_prefix || matches!(self.curve, Curve::Wsd(_));
        let length = f64::from(self.epochs) * unit;
        let time = CurveTime {
            lr: self.lr,
            t: if before { t - warmup } else { t },
            length: if before && !self.warmup_prefix { length - warmup } else { length },
            epoch: unit,
            warmup,
        };
        match &self.curve {
            Curve::Constant | Curve::Plateau(_) => self.lr,
            Curve::Cosine(curve) => curve.at(&time),
            Curve::Tanh(curve) => curve.at(&time),
            Curve::Poly(curve) => curve.at(&time),
            Curve::Step(curve) => curve.at(&time),
            Curve::MultiStep(curve) => curve.at(&time),
            Curve::Exponential(curve) => curve.at(&time),
            Curve::Lambda(factor) => self.lr * factor.at(time.t / unit, time.length / unit),
            Curve::Wsd(curve) => curve.at(&time),
        }
    }

    /// Observes the metric at the end of `epoch` (counted from 0), if there is one. Only a plateau uses it.
    pub fn observe(&self, state: &mut PlateauState, epoch: u32, metric: Option<f64>) {
        if let (Curve::Plateau(plateau), Some(metric)) = (&self.curve, metric)
            && epoch >= self.warmup_epochs
        {
            state.observe(plateau, self.lr, metric);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_schedule_only_warms_up() {
        let options =
            ScheduleOptions { lr: 1.0, warmup_lr: 0.0, epochs: 8, warmup_epochs: 2, ..Default::default() };
        let schedule = create_scheduler("constant", &options).expect("valid");
        let lrs: Vec<f64> = (0..5).map(|epoch| schedule.lr_at(epoch, 0, 1)).collect();
        assert_eq!(lrs, [0.0, 0.5, 1.0, 1.0, 1.0]);
    }

    /// Curves that timm, and hence the golden data, does not have.
    #[test]
    fn exponential_and_lambda_are_factors_of_the_epoch() {
        let options = ScheduleOptions { lr: 2.0, decay_rate: Some(0.5), epochs: 4, ..Default::default() };
        let exponential = create_scheduler("exponential", &options).expect("valid");
        let lrs: Vec<f64> = (0..4).map(|epoch| exponential.lr_at(epoch, 0, 1)).collect();
        assert_eq!(lrs, [2.0, 1.0, 0.5, 0.25]);
        let lambda = ScheduleOptions { lambda: Some("0.5 ** epoch".into()), decay_rate: None, ..options };
        let lambda = create_scheduler("lambda", &lambda).expect("valid");
        assert_eq!((0..4).map(|epoch| lambda.lr_at(epoch, 0, 1)).collect::<Vec<_>>(), lrs);
        let by_update = Schedule { on_updates: true, ..exponential };
        assert_eq!(by_update.lr_at(0, 2, 4), 2.0 * 0.5f64.sqrt());
    }

    #[test]
    fn warmup_prefix_shifts_every_curve() {
        let options = ScheduleOptions { lr: 1.0, epochs: 10, warmup_epochs: 3, ..Default::default() };
        for name in ["cosine", "tanh", "poly", "step", "multistep", "exponential"] {
            let plain =
                create_scheduler(name, &ScheduleOptions { warmup_epochs: 0, ..options.clone() }).expect(name);
            let shifted = ScheduleOptions { warmup_prefix: true, ..options.clone() };
            let shifted = create_scheduler(name, &shifted).expect(name);
            assert_eq!(shifted.total_epochs(), plain.total_epochs() + 3);
            for epoch in 1..10 {
                assert_eq!(plain.lr_at(epoch, 0, 1), shifted.lr_at(epoch + 3, 0, 1), "{name} at {epoch}");
            }
        }
    }
}
