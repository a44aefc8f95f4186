//! Learning-rate schedule of a run: options from settings, and resolved settings from options.
use super::Recipe;
use crate::schedule::{Cycles, DecayFn, Sched, ScheduleOptions};
use crate::settings::{DefaultSet, EvalMetric, Settings};

/// Schedule options with every value resolved.
pub(super) fn options(given: &Settings, sched: Sched, recipe: &Recipe, lr: f64) -> ScheduleOptions {
    let epochs = given.epochs.unwrap_or(recipe.epochs);
    let defaults = Defaults::new(given, sched, epochs);
    let or = ScheduleOptions::default();
    ScheduleOptions {
        lr,
        epochs,
        warmup_epochs: given
            .warmup_epochs
            .unwrap_or(recipe.warmup_epochs.min((recipe.max_warmup * f64::from(epochs)) as u32)),
        warmup_lr: given.warmup_lr.unwrap_or(or.warmup_lr),
        warmup_prefix: given.warmup_prefix.unwrap_or(or.warmup_prefix),
        min_lr: given.min_lr.unwrap_or(or.min_lr),
        cooldown_epochs: given.cooldown_epochs.unwrap_or(or.cooldown_epochs),
        decay_epochs: given.decay_epochs.or(Some(defaults.decay_epochs)),
        decay_milestones: given.decay_milestones.clone().or(Some(defaults.milestones)),
        decay_rate: given.decay_rate.or(Some(defaults.decay_rate)),
        patience_epochs: given.patience_epochs.unwrap_or(or.patience_epochs),
        lower_is_better: given.eval_metric.is_some_and(EvalMetric::lower_is_better),
        lambda: given.lr_lambda.clone(),
        decay_fn: given.lr_decay_fn.or(Some(match sched {
            Sched::Rsqrt => DecayFn::Linear,
            _ => DecayFn::OneMinusSqrt,
        })),
        stable_timescale: given.lr_stable_timescale,
        cycles: Cycles {
            mul: given.lr_cycle_mul.unwrap_or(or.cycles.mul),
            decay: given.lr_cycle_decay.unwrap_or(or.cycles.decay),
            limit: given.lr_cycle_limit.unwrap_or(or.cycles.limit),
        },
        k_decay: given.lr_k_decay.unwrap_or(or.k_decay),
        noise: given.lr_noise.clone(),
        noise_pct: given.lr_noise_pct.unwrap_or(or.noise_pct),
        noise_std: given.lr_noise_std.unwrap_or(or.noise_std),
        noise_seed: given.seed.unwrap_or(or.noise_seed),
        on_updates: sched != Sched::Plateau && given.sched_on_updates.unwrap_or(defaults.on_updates),
    }
}

/// Warning about a warmup that lasts to the end of the run.
pub(super) fn long_warmup(sched: Sched, options: &ScheduleOptions) -> Option<String> {
    let ScheduleOptions { warmup_epochs, epochs, warmup_prefix, .. } = *options;
    let is_long = warmup_epochs >= epochs && warmup_epochs > 0 && !warmup_prefix && sched != Sched::None;
    is_long.then(|| {
        format!(
            "warning: --warmup-epochs {warmup_epochs} of --epochs {epochs}: the learning rate only rises, and the schedule never begins"
        )
    })
}

/// Defaults of Fornax that differ from timm's.
struct Defaults {
    decay_epochs: f64,
    milestones: Vec<u32>,
    decay_rate: f64,
    on_updates: bool,
}

impl Defaults {
    fn new(given: &Settings, sched: Sched, epochs: u32) -> Defaults {
        match given.defaults.unwrap_or_default() {
            DefaultSet::Fornax => Defaults {
                decay_epochs: sched.default_decay_epochs(epochs),
                milestones: Sched::default_milestones(epochs),
                decay_rate: sched.default_decay_rate(),
                on_updates: sched != Sched::Plateau,
            },
            DefaultSet::Timm => Defaults {
                decay_epochs: 90.0,
                milestones: vec![90, 180, 270],
                decay_rate: 0.1,
                on_updates: false,
            },
        }
    }
}

/// Resolved settings of a schedule.
pub(super) fn resolved(sched: Sched, options: &ScheduleOptions) -> Settings {
    let ScheduleOptions { cycles, .. } = options;
    Settings {
        sched: Some(sched),
        lr: Some(options.lr),
        epochs: Some(options.epochs),
        sched_on_updates: Some(options.on_updates),
        warmup_epochs: Some(options.warmup_epochs),
        warmup_lr: Some(options.warmup_lr),
        warmup_prefix: Some(options.warmup_prefix),
        min_lr: Some(options.min_lr),
        cooldown_epochs: Some(options.cooldown_epochs),
        decay_epochs: options.decay_epochs,
        decay_milestones: options.decay_milestones.clone(),
        decay_rate: options.decay_rate,
        patience_epochs: Some(options.patience_epochs),
        lr_lambda: options.lambda.clone(),
        lr_decay_fn: options.decay_fn,
        lr_stable_timescale: options.stable_timescale,
        lr_cycle_limit: Some(cycles.limit),
        lr_cycle_mul: Some(cycles.mul),
        lr_cycle_decay: Some(cycles.decay),
        lr_k_decay: Some(options.k_decay),
        lr_noise: options.noise.clone(),
        lr_noise_pct: Some(options.noise_pct),
        lr_noise_std: Some(options.noise_std),
        ..Settings::default()
    }
}
