//! Learning rates as pure functions of (epoch, update), as timm's schedulers define them.
//!
//! [`create_scheduler`] makes a [`Schedule`] from a name and [`ScheduleOptions`]; [`Schedule::at`] is the rate of an update. Where an
//! epoch or an update counts as `t`, from 0, and lengths are in the same unit:
//!
//! 1. At `t = 0` the rate is `warmup_lr` if there is a warm-up, else `lr`.
//! 2. During the warm-up it is on the line from `warmup_lr` to `lr`. **The warm-up takes the place of the curve's beginning**, so that
//!    the rate may jump where it ends; with `warmup_prefix` it comes before the curve and lengthens the run.
//! 3. After it comes the curve: a file of this folder each.
//! 4. Noise, if asked for, multiplies the result; the warm-up is no exception.
//!
//! What surprises in timm, and holds here too, because published recipes count on it:
//!
//! - a milestone of `multistep` takes effect an epoch (or an update) before it, unlike PyTorch's;
//! - the exponent of `poly` is `decay_rate`, by default 0.1: the rate stays near its peak until the last epochs;
//! - `cooldown_epochs` lengthens cosine, tanh, poly, wsd and rsqrt only; Fornax refuses it elsewhere;
//! - the peak of a cycle is multiplied by `cycle_decay`, the end value is not;
//! - metrics of the warm-up do not count for `plateau`, and `t = warmup_epochs` still belongs to it.
//!
//! Where Fornax differs:
//!
//! - `none` is `constant` without a warm-up; what layers scale their rates by applies to it too;
//! - `step` and `multistep` without an interval or milestones decay after 0.3 of the epochs (0.6 and 0.9), which is timm's 90 (180, 270)
//!   for its 300 epochs, but does something in shorter runs;
//! - noise comes from Fornax's own generator, so its values are not timm's; they depend on `t` and the seed alone;
//! - the state of `plateau` is a part of checkpoints, and a resumed run goes on exactly.
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
pub use step::Step;
pub use tanh::Tanh;
pub use wsd::{Stable, Wsd};

/// A learning rate over a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The shape after the warm-up.
    pub curve: Curve,
    /// The peak.
    pub lr: f64,
    /// Length of the curve, or of its first cycle, in epochs.
    pub epochs: u32,
    /// Length of the warm-up, in epochs.
    pub warmup_epochs: u32,
    /// At the start of the warm-up.
    pub warmup_lr: f64,
    /// The warm-up comes before the curve, rather than over its beginning.
    pub warmup_prefix: bool,
    /// Epochs at the end value after the curve.
    pub cooldown_epochs: u32,
    /// Random factors.
    pub noise: Option<Noise>,
    /// The rate changes after every update, rather than every epoch.
    pub on_updates: bool,
}

/// The shape of a schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum Curve {
    /// The peak throughout.
    Constant,
    /// Half a cosine.
    Cosine(Cosine),
    /// A hyperbolic tangent.
    Tanh(Tanh),
    /// A power of what remains.
    Poly(Poly),
    /// A factor every so many epochs.
    Step(Step),
    /// A factor at given epochs.
    MultiStep(MultiStep),
    /// A factor every epoch.
    Exponential(Exponential),
    /// A factor given by a formula.
    Lambda(Expression),
    /// Stable, then a decay.
    Wsd(Wsd),
    /// A factor whenever the metric stops improving.
    Plateau(Plateau),
}

/// Where a curve is asked for its rate; times are in epochs or updates.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The peak.
    lr: f64,
    /// Since the curve began.
    t: f64,
    /// Length of the curve.
    length: f64,
    /// Length of an epoch.
    epoch: f64,
    /// Length of the warm-up.
    warmup: f64,
}

impl Schedule {
    /// Epochs in all: of the curve with its cycles, of the warm-up when it comes before, and at the end value.
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

    /// The rate of update `update` (counted from 0 over the whole run) in `epoch`, at so many updates an epoch. That of a plateau is
    /// this times [`PlateauState::scale`].
    pub fn lr_at(&self, epoch: u32, update: u64, updates_per_epoch: u64) -> f64 {
        self.lr_at_with_noise(epoch, update, updates_per_epoch, |t| {
            self.noise.as_ref().map_or(0.0, |noise| noise.draw(t))
        })
    }

    /// As [`Schedule::at`], with the draw of noise at `t` from elsewhere.
    pub fn lr_at_with_noise(
        &self,
        epoch: u32,
        update: u64,
        updates_per_epoch: u64,
        noise: impl Fn(u64) -> f64,
    ) -> f64 {
        let (t, unit) =
            if self.on_updates { (update, updates_per_epoch as f64) } else { (u64::from(epoch), 1.0) };
        let rate = self.without_noise(t as f64, unit);
        let length = f64::from(self.epochs) * unit;
        let warm = matches!(self.curve, Curve::Plateau(_)) && t <= u64::from(self.warmup_epochs);
        match &self.noise {
            Some(range) if t > 0 && !warm && range.covers(t as f64, length) => rate + rate * noise(t),
            _ => rate,
        }
    }

    fn without_noise(&self, t: f64, unit: f64) -> f64 {
        let warmup = f64::from(self.warmup_epochs) * unit;
        if t < warmup {
            // Only tanh aims at where it will be.
            let target = match &self.curve {
                Curve::Tanh(_) if !self.warmup_prefix => self.curve_at(warmup, warmup, unit),
                _ => self.lr,
            };
            return self.warmup_lr + t * ((target - self.warmup_lr) / warmup);
        }
        if t == 0.0 { self.lr } else { self.curve_at(t, warmup, unit) }
    }

    fn curve_at(&self, t: f64, warmup: f64, unit: f64) -> f64 {
        // That of wsd and rsqrt always comes before, and leaves them the rest.
        let before = self.warmup_prefix || matches!(self.curve, Curve::Wsd(_));
        let length = f64::from(self.epochs) * unit;
        let place = Place {
            lr: self.lr,
            t: if before { t - warmup } else { t },
            length: if before && !self.warmup_prefix { length - warmup } else { length },
            epoch: unit,
            warmup,
        };
        match &self.curve {
            Curve::Constant | Curve::Plateau(_) => self.lr,
            Curve::Cosine(curve) => curve.at(&place),
            Curve::Tanh(curve) => curve.at(&place),
            Curve::Poly(curve) => curve.at(&place),
            Curve::Step(curve) => curve.at(&place),
            Curve::MultiStep(curve) => curve.at(&place),
            Curve::Exponential(curve) => curve.at(&place),
            Curve::Lambda(factor) => self.lr * factor.at(place.t / unit, place.length / unit),
            Curve::Wsd(curve) => curve.at(&place),
        }
    }

    /// Takes note of the metric that finished `epoch` (counted from 0), or of its absence. Only a plateau heeds it.
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
    fn a_constant_rate_only_warms_up() {
        let options =
            ScheduleOptions { lr: 1.0, warmup_lr: 0.0, epochs: 8, warmup_epochs: 2, ..Default::default() };
        let schedule = create_scheduler("constant", &options).expect("valid");
        let rates: Vec<f64> = (0..5).map(|epoch| schedule.lr_at(epoch, 0, 1)).collect();
        assert_eq!(rates, [0.0, 0.5, 1.0, 1.0, 1.0]);
    }

    /// What no golden number covers: curves that timm does not have.
    #[test]
    fn exponential_and_lambda_are_factors_of_the_epoch() {
        let options = ScheduleOptions { lr: 2.0, decay_rate: Some(0.5), epochs: 4, ..Default::default() };
        let exponential = create_scheduler("exponential", &options).expect("valid");
        let rates: Vec<f64> = (0..4).map(|epoch| exponential.lr_at(epoch, 0, 1)).collect();
        assert_eq!(rates, [2.0, 1.0, 0.5, 0.25]);
        let lambda = ScheduleOptions { lambda: Some("0.5 ** epoch".into()), decay_rate: None, ..options };
        let lambda = create_scheduler("lambda", &lambda).expect("valid");
        assert_eq!((0..4).map(|epoch| lambda.lr_at(epoch, 0, 1)).collect::<Vec<_>>(), rates);
        let by_update = Schedule { on_updates: true, ..exponential };
        assert_eq!(by_update.lr_at(0, 2, 4), 2.0 * 0.5f64.sqrt());
    }

    #[test]
    fn a_prefix_shifts_every_curve() {
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
