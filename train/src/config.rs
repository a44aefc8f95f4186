//! The configuration of a run: every value settled, from the user's [`Settings`] and the defaults of the data set.
use crate::augment::Augment;
use crate::data::{self, DatasetInfo};
use crate::optim::{self, Optimizer, OptimizerName, OptimizerOptions, Rule, parameters};
use crate::schedule::{Curve, Schedule};
use crate::settings::{AmpDtype, ClipMode, Level, LrScale, Metric, Sched, Settings};
use crate::{Error, Result};
use fornax_engine::{Clip, DType, GradientRule, LossScaling};
use fornax_nn::{Module, OptLevel, Precision};

/// A run's data, model and training.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data set.
    pub dataset: &'static DatasetInfo,
    /// Every setting that has an effect, with its value: what `args.yaml` holds.
    pub settings: Settings,
    /// Model name.
    pub model: String,
    /// Images in a training batch.
    pub batch_size: usize,
    /// Images in a validation batch.
    pub validation_batch_size: usize,
    /// The learning rate over time.
    pub schedule: Schedule,
    /// Label smoothing.
    pub smoothing: f64,
    /// Which operation computes in which precision.
    pub precision: Precision,
    /// How gradients are limited.
    pub clip: Option<Clip>,
    /// Batches that one update takes its gradient from.
    pub accumulate: usize,
    /// Compute blocks again in the backward pass.
    pub checkpointing: bool,
    /// Changes to training images.
    pub augment: Augment,
    /// Seed of all draws.
    pub seed: u64,
    /// What ranks checkpoints.
    pub eval_metric: Metric,
    optimizer: OptimizerConfig,
}

#[derive(Clone, Debug)]
struct OptimizerConfig {
    name: OptimizerName,
    rule: Rule,
    options: OptimizerOptions,
    weight_decay: f64,
}

/// Defaults that suit a data set. Those of digits and fashion-mnist were found by experiment, to be accurate in little
/// time on a CPU; the others lean on them.
struct Recipe {
    model: &'static str,
    batch_size: u32,
    epochs: u32,
    warmup_epochs: u32,
    /// Learning rate and weight decay for SGD.
    sgd: [f64; 2],
    /// Learning rate and weight decay for AdamW.
    adamw: [f64; 2],
    smoothing: f64,
    shift: u32,
    hflip: f64,
}

const SMALL: Recipe = Recipe {
    model: "resnet8",
    batch_size: 32,
    epochs: 30,
    warmup_epochs: 2,
    sgd: [0.1, 5e-4],
    adamw: [3e-3, 0.05],
    smoothing: 0.1,
    shift: 1,
    hflip: 0.0,
};

const MNIST: Recipe = Recipe { epochs: 5, warmup_epochs: 1, ..SMALL };

fn recipe(dataset: &str) -> Recipe {
    match dataset {
        "digits" => SMALL,
        // Five epochs are too few to profit from shifts or smoothing.
        "fashion-mnist" => Recipe { hflip: 0.5, shift: 0, smoothing: 0.0, ..MNIST },
        _ => MNIST,
    }
}

impl Config {
    /// Settles every value. Errors on what has no effect or contradicts itself.
    pub fn resolve(given: &Settings) -> Result<Config> {
        let name = given.dataset.as_deref().unwrap_or("digits");
        let dataset = data::find(name).ok_or_else(|| unknown_dataset(name))?;
        let recipe = recipe(name);
        let name = given.opt.clone().unwrap_or_else(|| "sgd".parse().expect("an optimizer"));
        let sched = given.sched.unwrap_or(Sched::Cosine);
        let precision = precision(given)?;
        refuse_what_has_no_effect(given, sched, recipe.warmup_epochs)?;

        let [default_lr, default_decay] = name.like().of(recipe.sgd, recipe.adamw);
        let batch_size = given.batch_size.unwrap_or(recipe.batch_size);
        let accumulate = given.grad_accum_steps.unwrap_or(1);
        let schedule = Schedule {
            curve: if sched == Sched::Cosine { Curve::Cosine } else { Curve::Constant },
            lr: given.lr.or_else(|| scaled_lr(given, &name, batch_size * accumulate)).unwrap_or(default_lr),
            warmup_lr: given.warmup_lr.unwrap_or(1e-5),
            min_lr: given.min_lr.unwrap_or(0.0),
            epochs: given.epochs.unwrap_or(recipe.epochs),
            // The recipe's warm-up must leave something of a shorter schedule.
            warmup_epochs: given
                .warmup_epochs
                .unwrap_or(recipe.warmup_epochs.min(given.epochs.unwrap_or(recipe.epochs) / 4)),
            warmup_prefix: given.warmup_prefix.unwrap_or(false),
            cooldown_epochs: given.cooldown_epochs.unwrap_or(0),
            on_updates: given.sched_on_updates.unwrap_or(true),
        };
        if schedule.warmup_epochs >= schedule.epochs && !schedule.warmup_prefix && schedule.warmup_epochs > 0
        {
            let (warmup, epochs) = (schedule.warmup_epochs, schedule.epochs);
            return Err(Error::usage(format!("a warm-up of {warmup} epochs leaves nothing of {epochs}"))
                .at("--warmup-epochs")
                .remedy(
                    "make it shorter, train longer, or put it before the schedule with --warmup-prefix",
                ));
        }
        let (rule, options) = optim::settled_rule(&name, &optimizer_options(given, schedule.lr))?;
        if rule.curvature.is_some() && precision.needs_loss_scaling() {
            return Err(Error::usage(format!("{name} does not train in f16"))
                .because("second derivatives do not fit into it, whatever the loss is multiplied by")
                .remedy("give --amp-dtype bfloat16 or --no-amp"));
        }
        let weight_decay = given.weight_decay.unwrap_or(default_decay);
        let optimizer = OptimizerConfig { name, rule, options, weight_decay };
        let mut config = Config {
            dataset,
            settings: given.clone(),
            model: given.model.clone().unwrap_or_else(|| recipe.model.into()),
            batch_size: batch_size as usize,
            validation_batch_size: given.validation_batch_size.unwrap_or(256) as usize,
            schedule,
            smoothing: given.smoothing.unwrap_or(recipe.smoothing),
            precision,
            clip: clip(given),
            accumulate: accumulate as usize,
            checkpointing: given.grad_checkpointing.unwrap_or(false),
            augment: Augment {
                shift: given.shift.unwrap_or(recipe.shift),
                hflip: given.hflip.unwrap_or(recipe.hflip),
            },
            seed: given.seed.unwrap_or(42),
            eval_metric: given.eval_metric.unwrap_or(Metric::Top1),
            optimizer,
        };
        config.settings = config.settled();
        Ok(config)
    }

    /// The optimizer for a model's parameters.
    pub fn optimizer(&self, model: &dyn Module) -> Result<Optimizer> {
        let OptimizerConfig { rule, weight_decay, .. } = &self.optimizer;
        let optimizer = Optimizer::new(parameters(model, *weight_decay), rule.clone(), self.gradients())?;
        Ok(match self.precision.rounds_weights() {
            Some(dtype) => optimizer.rounding_to(dtype),
            None => optimizer,
        })
    }

    /// How an update treats gradients before its rule.
    pub fn gradients(&self) -> GradientRule {
        GradientRule {
            scaling: self.precision.needs_loss_scaling().then(LossScaling::default),
            clip: self.clip,
        }
    }

    /// Tensors that the optimizer keeps for each parameter.
    pub fn moments(&self) -> u64 {
        self.optimizer.rule.update.keeps().moments.len() as u64
    }

    /// The settings with every value that has an effect filled in, and no other.
    fn settled(&self) -> Settings {
        let (schedule, optimizer) = (&self.schedule, &self.optimizer);
        let cosine = schedule.curve == Curve::Cosine;
        let warm = schedule.warmup_epochs > 0;
        Settings {
            dataset: Some(self.dataset.name.into()),
            data_dir: self.settings.data_dir.clone(),
            batch_size: Some(self.batch_size as u32),
            validation_batch_size: Some(self.validation_batch_size as u32),
            model: Some(self.model.clone()),
            pretrained: self.settings.pretrained.filter(|_| self.settings.pretrained_path.is_none()),
            pretrained_path: self.settings.pretrained_path.clone(),
            initial_checkpoint: self.settings.initial_checkpoint.clone(),
            opt: Some(optimizer.name.clone()),
            lr: Some(schedule.lr),
            lr_base: None,
            lr_base_size: None,
            lr_base_scale: None,
            momentum: optimizer.options.momentum,
            opt_betas: optimizer.options.betas.clone(),
            opt_eps: optimizer.options.eps,
            opt_kwargs: self.settings.opt_kwargs.clone(),
            weight_decay: Some(optimizer.weight_decay),
            smoothing: Some(self.smoothing),
            clip_grad: self.settings.clip_grad,
            clip_mode: self.settings.clip_grad.map(|_| self.settings.clip_mode.unwrap_or(ClipMode::Norm)),
            grad_accum_steps: Some(self.accumulate as u32),
            amp: None,
            amp_dtype: self.precision.half().map(|dtype| match dtype {
                DType::BF16 => AmpDtype::Bfloat16,
                _ => AmpDtype::Float16,
            }),
            opt_level: Some(self.precision.level().into()),
            grad_checkpointing: Some(self.checkpointing),
            epochs: Some(schedule.epochs),
            sched: Some(if cosine { Sched::Cosine } else { Sched::Constant }),
            sched_on_updates: Some(schedule.on_updates),
            warmup_epochs: Some(schedule.warmup_epochs),
            warmup_lr: warm.then_some(schedule.warmup_lr),
            warmup_prefix: warm.then_some(schedule.warmup_prefix),
            min_lr: cosine.then_some(schedule.min_lr),
            cooldown_epochs: cosine.then_some(schedule.cooldown_epochs),
            hflip: Some(self.augment.hflip),
            shift: Some(self.augment.shift),
            seed: Some(self.seed),
            eval_metric: Some(self.eval_metric),
        }
    }
}

/// `--amp` is level O1, in f16 unless another dtype is named.
fn precision(given: &Settings) -> Result<Precision> {
    let level = match (given.amp, given.opt_level) {
        (Some(true), Some(Level::O0)) => {
            return Err(Error::usage("--amp contradicts --opt-level O0").remedy("give one of the two"));
        }
        (Some(false), Some(level)) if level != Level::O0 => {
            return Err(Error::usage("--no-amp contradicts --opt-level").remedy("give one of the two"));
        }
        (_, Some(level)) => level.into(),
        (Some(true), None) => OptLevel::O1,
        _ => OptLevel::O0,
    };
    if level == OptLevel::O0 && given.amp_dtype.is_some() {
        return Err(Error::usage("--amp-dtype would have no effect")
            .because("everything is computed in f32")
            .remedy("give --amp too"));
    }
    let half = match given.amp_dtype {
        Some(AmpDtype::Bfloat16) => DType::BF16,
        _ => DType::F16,
    };
    Ok(Precision::new(level, half))
}

/// timm's rule: `lr_base` times the batch size over `lr_base_size`, or the square root of that.
fn scaled_lr(given: &Settings, name: &OptimizerName, batch_size: u32) -> Option<f64> {
    let ratio = f64::from(batch_size) / f64::from(given.lr_base_size.unwrap_or(256));
    let adaptive = ["ada", "lamb"].iter().any(|part| name.plain().contains(part));
    let default = if adaptive { LrScale::Sqrt } else { LrScale::Linear };
    let factor = match given.lr_base_scale.unwrap_or(default) {
        LrScale::Linear => ratio,
        LrScale::Sqrt => ratio.sqrt(),
    };
    given.lr_base.map(|base| base * factor)
}

/// What the optimizer is told beside its name.
fn optimizer_options(given: &Settings, lr: f64) -> OptimizerOptions {
    let extra = given.opt_kwargs.iter().flatten().filter_map(|text| text.split_once('='));
    OptimizerOptions {
        lr: Some(lr),
        momentum: given.momentum,
        eps: given.opt_eps,
        betas: given.opt_betas.clone(),
        extra: extra.map(|(name, value)| (name.into(), value.parse().expect("checked"))).collect(),
    }
}

fn clip(given: &Settings) -> Option<Clip> {
    let limit = given.clip_grad? as f32;
    Some(match given.clip_mode.unwrap_or(ClipMode::Norm) {
        ClipMode::Norm => Clip::Norm(limit),
        ClipMode::Value => Clip::Value(limit),
        ClipMode::Agc => Clip::Units(limit),
    })
}

fn refuse_what_has_no_effect(given: &Settings, sched: Sched, warmup: u32) -> Result<()> {
    let cosine = sched == Sched::Cosine;
    let cold = given.warmup_epochs.unwrap_or(warmup) == 0;
    let no_base = given.lr_base.is_none();
    let (path, initial) = (given.pretrained_path.is_some(), given.initial_checkpoint.is_some());
    let rules = [
        (
            "--pretrained-path",
            path && (initial || given.pretrained == Some(false)),
            "--initial-checkpoint or --no-pretrained is given",
            "give one of them",
        ),
        (
            "--pretrained",
            given.pretrained == Some(true) && initial,
            "--initial-checkpoint replaces all weights",
            "give one of the two",
        ),
        ("--lr-base", given.lr_base.is_some() && given.lr.is_some(), "--lr is given", "give one of the two"),
        (
            "--lr-base-size",
            given.lr_base_size.is_some() && no_base,
            "--lr-base is not given",
            "give --lr-base too",
        ),
        (
            "--lr-base-scale",
            given.lr_base_scale.is_some() && no_base,
            "--lr-base is not given",
            "give --lr-base too",
        ),
        (
            "--clip-mode",
            given.clip_mode.is_some() && given.clip_grad.is_none(),
            "--clip-grad is not given",
            "give --clip-grad too",
        ),
        ("--min-lr", given.min_lr.is_some() && !cosine, "the schedule is constant", "use --sched cosine"),
        (
            "--cooldown-epochs",
            given.cooldown_epochs.is_some() && !cosine,
            "the schedule is constant",
            "raise --epochs",
        ),
        ("--warmup-lr", given.warmup_lr.is_some() && cold, "there is no warm-up", "give --warmup-epochs too"),
        (
            "--warmup-prefix",
            given.warmup_prefix == Some(true) && cold,
            "there is no warm-up",
            "give --warmup-epochs too",
        ),
    ];
    match rules.into_iter().find(|(_, broken, ..)| *broken) {
        None => Ok(()),
        Some((flag, _, why, remedy)) => {
            Err(Error::usage(format!("{flag} would have no effect")).because(why).remedy(remedy))
        }
    }
}

fn unknown_dataset(name: &str) -> Error {
    let names: Vec<&str> = data::DATASETS.iter().map(|d| d.name).collect();
    let error = Error::usage(format!("there is no data set {name:?}")).at("--dataset");
    error.because(format!("there are: {}", names.join(", "))).remedy(
        match crate::nearest::nearest(name, names) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "choose one of these".into(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_settled_settles_to_itself() {
        let cases = [
            Settings::default(),
            Settings {
                opt: Some("adamw".parse().expect("a name")),
                sched: Some(Sched::Constant),
                ..Settings::default()
            },
            Settings {
                lr_base: Some(0.1),
                batch_size: Some(512),
                warmup_epochs: Some(0),
                ..Settings::default()
            },
        ];
        for given in cases {
            let once = Config::resolve(&given).expect("valid");
            let twice = Config::resolve(&once.settings).expect("what is written can be read");
            assert_eq!(once.settings, twice.settings);
            assert_eq!(once.schedule, twice.schedule);
        }
    }

    #[test]
    fn the_base_rate_grows_with_the_batch() {
        let given = Settings { lr_base: Some(0.1), batch_size: Some(1024), ..Settings::default() };
        assert_eq!(Config::resolve(&given).expect("valid").schedule.lr, 0.4);
        let given = Settings { opt: Some("adamw".parse().expect("a name")), ..given };
        assert_eq!(Config::resolve(&given).expect("valid").schedule.lr, 0.2);
    }

    #[test]
    fn what_has_no_effect_is_refused() {
        let adam = Settings {
            opt: Some("adamw".parse().expect("a name")),
            momentum: Some(0.9),
            ..Settings::default()
        };
        let both = Settings { lr: Some(0.1), lr_base: Some(0.1), ..Settings::default() };
        let cold = Settings { warmup_epochs: Some(0), warmup_lr: Some(0.1), ..Settings::default() };
        let warm = Settings { warmup_epochs: Some(5), epochs: Some(5), ..Settings::default() };
        for (given, flag) in
            [(adam, "--momentum"), (both, "--lr-base"), (cold, "--warmup-lr"), (warm, "--warmup-epochs")]
        {
            let error = Config::resolve(&given).expect_err(flag).to_string();
            assert!(error.contains(flag), "{error}");
        }
    }
}
