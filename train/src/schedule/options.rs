//! Schedules by name, with their options and checks.
use super::{
    Cosine, Curve, Cycles, Exponential, Expression, MultiStep, Noise, Plateau, Poly, Schedule, StablePhase,
    StepDecay, Tanh, Wsd,
};
use crate::nearest::nearest;
use crate::{Error, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Learning-rate schedule, by timm's name.
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
    /// The remaining fraction of the epochs, to the power of --decay-rate
    Poly,
    /// Times --decay-rate when the metric has not improved for --patience-epochs
    Plateau,
    /// Times --decay-rate every epoch
    Exponential,
    /// Times --lr-lambda
    Lambda,
    /// Warmup, stable, decay: --lr, and a decay during the last --decay-epochs
    Wsd,
    /// Reciprocal square root of the time, and a decay during the last --decay-epochs
    Rsqrt,
    /// --lr throughout
    Constant,
    /// --lr throughout, without warmup
    None,
}

/// Shape of the final decay from 1 to 0.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecayFn {
    /// Linear
    Linear,
    /// 1 - sqrt(x)
    #[value(name = "1-sqrt")]
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
    /// Half a cosine
    Cosine,
    /// 1 - x^0.5, same as 1-sqrt
    Power,
    /// An exponential, shifted to end at 0
    Exp,
}

/// Options of all schedules; each schedule ignores the options it does not use. Defaults are timm's, except as noted in [the module](super).
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleOptions {
    /// Peak learning rate.
    pub lr: f64,
    /// Epochs of the schedule, or of its first cycle.
    pub epochs: u32,
    /// Epochs of linear warmup.
    pub warmup_epochs: u32,
    /// Learning rate at the start of the warmup.
    pub warmup_lr: f64,
    /// Runs the warmup before the schedule instead of during its first epochs.
    pub warmup_prefix: bool,
    /// Minimum learning rate: end value of cosine, tanh, poly, wsd and rsqrt, lower bound of plateau.
    pub min_lr: f64,
    /// Epochs at `min_lr` after the schedule: cosine, tanh, poly, wsd, rsqrt.
    pub cooldown_epochs: u32,
    /// Epoch interval of step; decay length of wsd and rsqrt, a fraction if below 1.
    pub decay_epochs: Option<f64>,
    /// Decay epochs of multistep.
    pub decay_milestones: Option<Vec<u32>>,
    /// Decay factor of step, multistep, plateau and exponential, power of poly.
    pub decay_rate: Option<f64>,
    /// Patience of plateau: epochs without improvement.
    pub patience_epochs: u32,
    /// A lower metric of plateau is better.
    pub lower_is_better: bool,
    /// Expression of lambda.
    pub lambda: Option<String>,
    /// Decay function of wsd and rsqrt.
    pub decay_fn: Option<DecayFn>,
    /// Timescale of rsqrt in epochs; `None` for the length of the warmup.
    pub stable_timescale: Option<f64>,
    /// Cycles of cosine, tanh and poly.
    pub cycles: Cycles,
    /// k-decay exponent of cosine and poly.
    pub k_decay: f64,
    /// Start and optional end of the noise, as fractions of `epochs`.
    pub noise: Option<Vec<f64>>,
    /// Limit of the noise's magnitude; samples beyond it are rejected.
    pub noise_pct: f64,
    /// Standard deviation of the noise.
    pub noise_std: f64,
    /// Seed of the noise.
    pub noise_seed: u64,
    /// Steps after every update instead of every epoch.
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

/// Creates the schedule of a name, one of [`Sched`]'s in lower case. Errors on unknown names and inconsistent options.
pub fn create_scheduler(name: &str, options: &ScheduleOptions) -> Result<Schedule> {
    let named = Sched::from_str(name, true).map_err(|_| {
        let names: Vec<String> = Sched::value_variants().iter().map(|sched| sched.name()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let error = Error::usage(format!("unknown schedule {name:?}")).at("--sched");
        error.because(format!("the schedules are {}", names.join(", "))).remedy(match nearest(name, names) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "choose one of these".into(),
        })
    })?;
    named.create(options)
}

impl Sched {
    /// Creates the schedule.
    pub fn create(self, options: &ScheduleOptions) -> Result<Schedule> {
        let no_warmup = self == Sched::None;
        let has_cooldown =
            matches!(self, Sched::Cosine | Sched::Tanh | Sched::Poly | Sched::Wsd | Sched::Rsqrt);
        let schedule = Schedule {
            curve: self.curve(options)?,
            lr: options.lr,
            epochs: options.epochs,
            warmup_epochs: if no_warmup { 0 } else { options.warmup_epochs },
            warmup_lr: options.warmup_lr,
            warmup_prefix: options.warmup_prefix,
            cooldown_epochs: if has_cooldown { options.cooldown_epochs } else { 0 },
            noise: options.noise()?,
            on_updates: options.on_updates,
        };
        schedule.check()?;
        Ok(schedule)
    }

    /// The schedule's name.
    pub fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_string())
    }

    /// Default decay factor, or power of poly.
    pub fn default_decay_rate(self) -> f64 {
        if self == Sched::Exponential { 0.95 } else { 0.1 }
    }

    /// Default interval of step (timm's 90 of 300 epochs) and decay length of wsd and rsqrt (a fifth).
    pub fn default_decay_epochs(self, epochs: u32) -> f64 {
        if self == Sched::Step { f64::from(fraction_of(epochs, 0.3)) } else { 0.2 }
    }

    /// Default milestones: timm's 90, 180 and 270 of 300 epochs.
    pub fn default_milestones(epochs: u32) -> Vec<u32> {
        let mut milestones: Vec<u32> = [0.3, 0.6, 0.9].into_iter().map(|s| fraction_of(epochs, s)).collect();
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
            Sched::Step => Curve::Step(StepDecay { decay_epochs, decay_rate }),
            Sched::MultiStep => {
                let milestones =
                    o.decay_milestones.clone().unwrap_or_else(|| Self::default_milestones(o.epochs));
                Curve::MultiStep(MultiStep { milestones, decay_rate })
            }
            Sched::Exponential => Curve::Exponential(Exponential { decay_rate }),
            Sched::Lambda => match &o.lambda {
                Some(text) => Curve::Lambda(Expression::parse(text)?),
                None => {
                    let error = Error::usage("the schedule lambda needs an expression").at("--sched lambda");
                    return Err(error.remedy("pass it with --lr-lambda, such as \"0.95 ** epoch\""));
                }
            },
            Sched::Wsd => wsd(StablePhase::Constant, DecayFn::OneMinusSqrt),
            Sched::Rsqrt => {
                wsd(StablePhase::ReciprocalRoot { timescale: o.stable_timescale }, DecayFn::Linear)
            }
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
                return Err(Error::usage(format!("{other:?} is not a range"))
                    .at("--lr-noise")
                    .remedy("pass the start, or the start and a larger end, as fractions of the epochs"));
            }
        };
        Ok(Some(Noise { from, to, pct: self.noise_pct, std: self.noise_std, seed: self.noise_seed }))
    }
}

impl Schedule {
    fn check(&self) -> Result<()> {
        let (warmup, epochs) = (self.warmup_epochs, self.epochs);
        // The others rise to the end of the run, as in timm.
        if warmup >= epochs && !self.warmup_prefix && warmup > 0 && matches!(self.curve, Curve::Wsd(_)) {
            return Err(Error::usage(format!("--warmup-epochs ({warmup}) must be below --epochs ({epochs})"))
                .because("no epoch remains for the schedule after the warmup")
                .remedy("lower --warmup-epochs, raise --epochs, or run the warmup before the schedule with --warmup-prefix"));
        }
        match &self.curve {
            Curve::Plateau(_) if self.on_updates => {
                Err(Error::usage("the schedule plateau steps after epochs only")
                    .at("--sched-on-updates")
                    .remedy("omit --sched-on-updates"))
            }
            Curve::MultiStep(MultiStep { milestones, .. }) if !milestones.is_sorted() => {
                Err(Error::usage("milestones must be in ascending order")
                    .at("--decay-milestones")
                    .remedy("sort them"))
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
            .because("a learning rate must be finite and at least 0"))
    }

    fn check_decay(&self, wsd: &Wsd) -> Result<()> {
        if wsd.stable == (StablePhase::ReciprocalRoot { timescale: None }) && self.warmup_epochs == 0 {
            return Err(Error::usage("the schedule rsqrt needs a timescale")
                .because("its default is the length of the warmup, which is 0")
                .remedy("use --lr-stable-timescale or --warmup-epochs"));
        }
        let length = f64::from(self.epochs - if self.warmup_prefix { 0 } else { self.warmup_epochs });
        let decay = wsd.decay_length(length, 1.0);
        // A small fraction may round to 0 epochs and still be many updates.
        if decay > length || (decay <= 0.0 && !(self.on_updates && wsd.decay_epochs > 0.0)) {
            return Err(Error::usage(format!("a decay of {decay} epochs does not fit into {length} epochs"))
                .at("--decay-epochs")
                .because("the decay ends the schedule and must fit between the warmup and the last epoch")
                .remedy("pass 1 to that many epochs, or a fraction below 1"));
        }
        Ok(())
    }
}

/// A fraction of the epochs, rounded, at least 1.
fn fraction_of(epochs: u32, fraction: f64) -> u32 {
    ((f64::from(epochs) * fraction).round() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inconsistent_options_are_rejected() {
        let options = ScheduleOptions { epochs: 10, ..Default::default() };
        let cases = [
            ("cosin", options.clone(), "did you mean \"cosine\""),
            ("lambda", options.clone(), "needs an expression"),
            ("lambda", ScheduleOptions { lambda: Some("5 - epoch".into()), ..options.clone() }, "at epoch 6"),
            ("rsqrt", options.clone(), "timescale"),
            ("wsd", ScheduleOptions { decay_epochs: Some(11.0), ..options.clone() }, "does not fit"),
            ("wsd", ScheduleOptions { decay_epochs: Some(0.01), ..options.clone() }, "does not fit"),
            ("plateau", ScheduleOptions { on_updates: true, ..options.clone() }, "after epochs only"),
            (
                "multistep",
                ScheduleOptions { decay_milestones: Some(vec![3, 2]), ..options.clone() },
                "ascending order",
            ),
            ("cosine", ScheduleOptions { noise: Some(vec![0.5, 0.4]), ..options.clone() }, "not a range"),
            (
                "wsd",
                ScheduleOptions { warmup_epochs: 10, ..options.clone() },
                "--warmup-epochs (10) must be below --epochs (10)",
            ),
        ];
        for (name, options, what) in cases {
            let error = create_scheduler(name, &options).expect_err(name).to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn every_schedule_decays_or_is_constant() {
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
