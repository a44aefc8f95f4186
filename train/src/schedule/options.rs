//! Schedules by name.
use super::{
    Cosine, Curve, Cycles, Exponential, Expression, MultiStep, Noise, Plateau, Poly, Schedule, Stable, Step,
    Tanh, Wsd,
};
use crate::nearest::nearest;
use crate::{Error, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Schedules, under timm's names.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sched {
    /// Half a cosine down to --min-lr
    Cosine,
    /// A hyperbolic tangent down to --min-lr
    Tanh,
    /// Times --decay-rate every --decay-epochs
    Step,
    /// Times --decay-rate at each of --decay-milestones
    #[value(name = "multistep")]
    MultiStep,
    /// What remains of the epochs, to the power of --decay-rate
    Poly,
    /// Times --decay-rate when the metric has not improved for --patience-epochs
    Plateau,
    /// Times --decay-rate every epoch
    Exponential,
    /// Times --lr-lambda
    Lambda,
    /// --lr, and a decay during the last --decay-epochs
    Wsd,
    /// Falling with the root of the time, and a decay during the last --decay-epochs
    Rsqrt,
    /// --lr throughout
    Constant,
    /// --lr throughout, without a warm-up
    None,
}

/// Settings that only some schedules have.
const USED_BY: &[(&[&str], &[Sched])] = {
    use Sched::*;
    &[
        (&["min_lr"], &[Cosine, Tanh, Poly, Wsd, Rsqrt, Plateau]),
        (&["cooldown_epochs"], &[Cosine, Tanh, Poly, Wsd, Rsqrt]),
        (&["decay_epochs"], &[Step, Wsd, Rsqrt]),
        (&["decay_milestones"], &[MultiStep]),
        (&["decay_rate"], &[Step, MultiStep, Poly, Plateau, Exponential]),
        (&["patience_epochs"], &[Plateau]),
        (&["lr_lambda"], &[Lambda]),
        (&["lr_decay_fn"], &[Wsd, Rsqrt]),
        (&["lr_stable_timescale"], &[Rsqrt]),
        (&["lr_cycle_limit", "lr_cycle_mul", "lr_cycle_decay"], &[Cosine, Tanh, Poly]),
        (&["lr_k_decay"], &[Cosine, Poly]),
        (
            &["warmup_epochs", "warmup_lr", "warmup_prefix"],
            &[Cosine, Tanh, Step, MultiStep, Poly, Plateau, Exponential, Lambda, Wsd, Rsqrt, Constant],
        ),
        (
            &["sched_on_updates"],
            &[Cosine, Tanh, Step, MultiStep, Poly, Exponential, Lambda, Wsd, Rsqrt, Constant, None],
        ),
    ]
};

/// How a decay at the end goes from 1 to 0.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecayFn {
    /// A straight line
    Linear,
    /// 1 - sqrt(x)
    #[value(name = "1-sqrt")]
    #[serde(rename = "1-sqrt")]
    Root,
    /// Half a cosine
    Cosine,
    /// An exponential, shifted to end at 0
    Exp,
}

/// What a schedule may need; those that a name does not need are not looked at. Defaults are timm's, but see [the module](super).
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleOptions {
    /// Learning rate at its peak.
    pub lr: f64,
    /// Epochs of the schedule, or of its first cycle.
    pub epochs: u32,
    /// Epochs of linear warm-up.
    pub warmup_epochs: u32,
    /// Learning rate at the start of the warm-up.
    pub warmup_lr: f64,
    /// Warm up before the schedule, rather than during its first epochs.
    pub warmup_prefix: bool,
    /// Learning rate at the end: cosine, tanh, poly, wsd, rsqrt, plateau.
    pub min_lr: f64,
    /// Epochs at `min_lr` after the schedule: cosine, tanh, poly, wsd, rsqrt.
    pub cooldown_epochs: u32,
    /// Interval of step; length of the decay of wsd and rsqrt, below 1 as a share.
    pub decay_epochs: Option<f64>,
    /// Epochs of multistep.
    pub decay_milestones: Option<Vec<u32>>,
    /// Factor of step, multistep, plateau and exponential, exponent of poly.
    pub decay_rate: Option<f64>,
    /// Epochs without improvement that plateau puts up with.
    pub patience_epochs: u32,
    /// Plateau's metric is better when it is lower.
    pub lower_is_better: bool,
    /// Formula of lambda.
    pub lambda: Option<String>,
    /// Decay of wsd and rsqrt.
    pub decay_fn: Option<DecayFn>,
    /// In epochs, of rsqrt; the warm-up's length by default.
    pub stable_timescale: Option<f64>,
    /// Cycles of cosine, tanh and poly.
    pub cycles: Cycles,
    /// Exponent of the time in cosine and poly.
    pub k_decay: f64,
    /// Where noise begins and, with a second number, ends, as shares of `epochs`.
    pub noise: Option<Vec<f64>>,
    /// Noise is redrawn until it is below this.
    pub noise_pct: f64,
    /// Standard deviation of noise.
    pub noise_std: f64,
    /// Seed of noise.
    pub noise_seed: u64,
    /// The rate changes after every update, rather than every epoch.
    pub on_updates: bool,
}

impl Default for ScheduleOptions {
    fn default() -> ScheduleOptions {
        ScheduleOptions {
            lr: 0.1,
            epochs: 300,
            warmup_epochs: 0,
            warmup_lr: 1e-5,
            warmup_prefix: false,
            min_lr: 0.0,
            cooldown_epochs: 0,
            decay_epochs: None,
            decay_milestones: None,
            decay_rate: None,
            patience_epochs: 10,
            lower_is_better: false,
            lambda: None,
            decay_fn: None,
            stable_timescale: None,
            cycles: Cycles { mul: 1.0, decay: 0.5, limit: 1 },
            k_decay: 1.0,
            noise: None,
            noise_pct: 0.67,
            noise_std: 1.0,
            noise_seed: 42,
            on_updates: false,
        }
    }
}

/// The schedule of a name: one of [`Sched`]'s, in lower case.
pub fn create_scheduler(name: &str, options: &ScheduleOptions) -> Result<Schedule> {
    let named = Sched::from_str(name, true).map_err(|_| {
        let names: Vec<String> = Sched::value_variants().iter().map(|sched| sched.name()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let error = Error::usage(format!("there is no schedule {name:?}")).at("--sched");
        error.because(format!("there are: {}", names.join(", "))).remedy(match nearest(name, names) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "choose one of these".into(),
        })
    })?;
    named.create(options)
}

impl Sched {
    /// The schedule of this name.
    pub fn create(self, options: &ScheduleOptions) -> Result<Schedule> {
        let cold = self == Sched::None;
        let cools = matches!(self, Sched::Cosine | Sched::Tanh | Sched::Poly | Sched::Wsd | Sched::Rsqrt);
        let schedule = Schedule {
            curve: self.curve(options)?,
            lr: options.lr,
            epochs: options.epochs,
            warmup_epochs: if cold { 0 } else { options.warmup_epochs },
            warmup_lr: options.warmup_lr,
            warmup_prefix: options.warmup_prefix,
            cooldown_epochs: if cools { options.cooldown_epochs } else { 0 },
            noise: options.noise()?,
            on_updates: options.on_updates,
        };
        schedule.check()?;
        Ok(schedule)
    }

    /// Whether a setting, by its name with underscores, has an effect on this schedule, or on other things than schedules.
    pub fn uses(self, setting: &str) -> bool {
        let own = USED_BY.iter().find(|(settings, _)| settings.contains(&setting));
        own.is_none_or(|(_, schedules)| schedules.contains(&self))
    }

    /// The names of the schedules that have a setting.
    pub fn users_of(setting: &str) -> Vec<String> {
        Sched::value_variants().iter().filter(|sched| sched.uses(setting)).map(|sched| sched.name()).collect()
    }

    /// Its name.
    pub fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
    }

    /// The factor or exponent that is taken where none is given.
    pub fn default_decay_rate(self) -> f64 {
        if self == Sched::Exponential { 0.95 } else { 0.1 }
    }

    /// The interval or length that is taken where none is given: timm's 90 of 300 epochs for step, a fifth for the decay of wsd and rsqrt.
    pub fn default_decay_epochs(self, epochs: u32) -> f64 {
        if self == Sched::Step { f64::from(share(epochs, 0.3)) } else { 0.2 }
    }

    /// The milestones that are taken where none are given: timm's 90, 180 and 270 of 300 epochs.
    pub fn default_milestones(epochs: u32) -> Vec<u32> {
        let mut milestones: Vec<u32> = [0.3, 0.6, 0.9].into_iter().map(|s| share(epochs, s)).collect();
        milestones.dedup();
        milestones
    }

    fn curve(self, o: &ScheduleOptions) -> Result<Curve> {
        let (cycles, min_lr, k_decay) = (o.cycles, o.min_lr, o.k_decay);
        let decay_rate = o.decay_rate.unwrap_or(self.default_decay_rate());
        let decay_epochs = o.decay_epochs.unwrap_or(self.default_decay_epochs(o.epochs));
        let wsd = |stable, decay_fn| {
            Curve::Wsd(Wsd { stable, decay_epochs, decay_fn: o.decay_fn.unwrap_or(decay_fn), min_lr })
        };
        Ok(match self {
            Sched::Constant | Sched::None => Curve::Constant,
            Sched::Cosine => Curve::Cosine(Cosine { cycles, min_lr, k_decay }),
            Sched::Tanh => Curve::Tanh(Tanh { cycles, min_lr }),
            Sched::Poly => Curve::Poly(Poly { cycles, min_lr, power: decay_rate, k_decay }),
            Sched::Step => Curve::Step(Step { decay_epochs, decay_rate }),
            Sched::MultiStep => {
                let milestones =
                    o.decay_milestones.clone().unwrap_or_else(|| Self::default_milestones(o.epochs));
                Curve::MultiStep(MultiStep { milestones, decay_rate })
            }
            Sched::Exponential => Curve::Exponential(Exponential { decay_rate }),
            Sched::Lambda => match &o.lambda {
                Some(text) => Curve::Lambda(Expression::parse(text)?),
                None => {
                    let error = Error::usage("the schedule lambda needs a formula").at("--sched lambda");
                    return Err(error.remedy("give one with --lr-lambda, such as \"0.95 ** epoch\""));
                }
            },
            Sched::Wsd => wsd(Stable::Constant, DecayFn::Root),
            Sched::Rsqrt => wsd(Stable::ReciprocalRoot { timescale: o.stable_timescale }, DecayFn::Linear),
            Sched::Plateau => Curve::Plateau(Plateau {
                decay_rate,
                patience: o.patience_epochs,
                min_lr,
                lower_is_better: o.lower_is_better,
            }),
        })
    }
}

impl ScheduleOptions {
    fn noise(&self) -> Result<Option<Noise>> {
        let (from, to) = match self.noise.as_deref() {
            None => return Ok(None),
            Some(&[from]) => (from, None),
            Some(&[from, to]) if from < to => (from, Some(to)),
            Some(other) => {
                return Err(Error::usage(format!("{other:?} is no range"))
                    .at("--lr-noise")
                    .remedy("give where noise begins, or where it begins and where it ends"));
            }
        };
        Ok(Some(Noise { from, to, pct: self.noise_pct, std: self.noise_std, seed: self.noise_seed }))
    }
}

impl Schedule {
    fn check(&self) -> Result<()> {
        let (warmup, epochs) = (self.warmup_epochs, self.epochs);
        if warmup >= epochs && !self.warmup_prefix && warmup > 0 {
            let remedy = "make it shorter, train longer, or put it before the schedule with --warmup-prefix";
            return Err(Error::usage(format!("a warm-up of {warmup} epochs leaves nothing of {epochs}"))
                .at("--warmup-epochs")
                .remedy(remedy));
        }
        match &self.curve {
            Curve::Plateau(_) if self.on_updates => {
                Err(Error::usage("a plateau is looked for after epochs only")
                    .at("--sched-on-updates")
                    .remedy("leave it out"))
            }
            Curve::MultiStep(MultiStep { milestones, .. }) if !milestones.is_sorted() => {
                Err(Error::usage("milestones must rise").at("--decay-milestones").remedy("sort them"))
            }
            Curve::Lambda(factor) => self.check_factor(factor),
            Curve::Wsd(wsd) => self.check_decay(wsd),
            _ => Ok(()),
        }
    }

    fn check_factor(&self, factor: &Expression) -> Result<()> {
        let fails = |epoch: &u32| {
            let value = factor.at(f64::from(*epoch), f64::from(self.epochs));
            !(value.is_finite() && value >= 0.0)
        };
        let Some(epoch) = (0..self.epochs).find(fails) else { return Ok(()) };
        let value = factor.at(f64::from(epoch), f64::from(self.epochs));
        Err(Error::usage(format!("{factor} is {value} at epoch {epoch}"))
            .at("--lr-lambda")
            .because("a learning rate is a number and not below 0"))
    }

    fn check_decay(&self, wsd: &Wsd) -> Result<()> {
        if wsd.stable == (Stable::ReciprocalRoot { timescale: None }) && self.warmup_epochs == 0 {
            return Err(Error::usage("rsqrt needs a time scale")
                .because("without a warm-up there is none to take")
                .remedy("give --lr-stable-timescale or --warmup-epochs"));
        }
        let length = f64::from(self.epochs - if self.warmup_prefix { 0 } else { self.warmup_epochs });
        let decay = wsd.decay_length(length, 1.0);
        // A share of few epochs may be nothing of an epoch, and yet many updates.
        if decay > length || (decay <= 0.0 && !(self.on_updates && wsd.decay_epochs > 0.0)) {
            return Err(Error::usage(format!("a decay of {decay} epochs does not fit into {length}"))
                .at("--decay-epochs")
                .because("these are the epochs after the warm-up")
                .remedy("give epochs, or a share of them below 1"));
        }
        Ok(())
    }
}

/// A share of epochs, at least one.
fn share(epochs: u32, share: f64) -> u32 {
    ((f64::from(epochs) * share).round() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_schedule_is_refused() {
        let options = ScheduleOptions { epochs: 10, ..Default::default() };
        let cases = [
            ("cosin", options.clone(), "did you mean \"cosine\""),
            ("lambda", options.clone(), "needs a formula"),
            ("lambda", ScheduleOptions { lambda: Some("5 - epoch".into()), ..options.clone() }, "at epoch 6"),
            ("rsqrt", options.clone(), "time scale"),
            ("wsd", ScheduleOptions { decay_epochs: Some(11.0), ..options.clone() }, "does not fit"),
            ("wsd", ScheduleOptions { decay_epochs: Some(0.01), ..options.clone() }, "does not fit"),
            ("plateau", ScheduleOptions { on_updates: true, ..options.clone() }, "after epochs only"),
            (
                "multistep",
                ScheduleOptions { decay_milestones: Some(vec![3, 2]), ..options.clone() },
                "must rise",
            ),
            ("cosine", ScheduleOptions { noise: Some(vec![0.5, 0.4]), ..options.clone() }, "no range"),
            ("cosine", ScheduleOptions { warmup_epochs: 10, ..options.clone() }, "leaves nothing"),
        ];
        for (name, options, what) in cases {
            let error = create_scheduler(name, &options).expect_err(name).to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn every_name_makes_a_schedule_that_decays_or_is_constant() {
        for sched in Sched::value_variants() {
            let options = ScheduleOptions {
                epochs: 20,
                lambda: Some("0.9**epoch".into()),
                warmup_epochs: 2,
                ..Default::default()
            };
            let name = sched.name();
            let schedule = create_scheduler(&name, &options).expect("valid");
            let (middle, last) = (schedule.lr_at(3, 0, 1), schedule.lr_at(19, 0, 1));
            match sched {
                Sched::Constant | Sched::None | Sched::Plateau => assert_eq!(middle, last),
                _ => assert!(last < middle, "{name}"),
            }
        }
    }
}
