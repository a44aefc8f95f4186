//! Configuration of a run: every value resolved from the user's [`Settings`] and the dataset's defaults.
mod ignored_flags;
mod loss;
mod model;
mod schedule;

pub use model::ModelConfig;

use crate::augment::Augment;
use crate::data::{self, DatasetInfo};
use crate::ema::{EmaOptions, EmaWarmup};
use crate::optim::param_groups::{self, LayerDecay, ParamGroupOptions};
use crate::optim::{self, Optimizer, OptimizerName, OptimizerOptions, OptimizerRule};
use crate::schedule::{Sched, Schedule};
use crate::settings::{AmpDtype, ClipMode, EvalMetric, LrScale, OptLevelArg, Settings};
use crate::{Error, Result};
use fornax_engine::{DType, GradClip, GradientRule, LossScaling};
use fornax_nn::loss::Loss;
use fornax_nn::models::Model;
use fornax_nn::{OptLevel, Precision};
use ignored_flags::FlagContext;
use std::sync::Arc;

/// Resolved configuration of a run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The dataset.
    pub dataset: &'static DatasetInfo,
    /// Every setting that has an effect, with its value: the content of `args.yaml`.
    pub settings: Settings,
    /// The model, without the number of classes and channels.
    pub model: ModelConfig,
    /// Training batch size, in images.
    pub batch_size: usize,
    /// Validation batch size, in images.
    pub validation_batch_size: usize,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Training loss.
    pub loss: Arc<dyn Loss>,
    /// Name of the training loss and its label smoothing.
    pub loss_name: String,
    /// Exponential moving average of the weights.
    pub ema: Option<EmaOptions>,
    /// Keeps the EMA weights on the CPU.
    pub ema_on_cpu: bool,
    /// Mixed precision: the dtype of each kind of operation.
    pub precision: Precision,
    /// Gradient clipping.
    pub clip: Option<GradClip>,
    /// Gradient accumulation steps: batches per update.
    pub grad_accum_steps: usize,
    /// Gradient checkpointing: recompute blocks in the backward pass.
    pub checkpointing: bool,
    /// Augmentation of training images.
    pub augment: Augment,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Metric that ranks checkpoints.
    pub eval_metric: EvalMetric,
    /// On a CUDA device: chooses cuDNN's convolution plans by timing.
    pub cudnn_benchmark: bool,
    /// On a CUDA device: only deterministic cuDNN engines.
    pub deterministic: bool,
    optimizer: OptimizerConfig,
}

#[derive(Clone, Debug)]
struct OptimizerConfig {
    name: OptimizerName,
    rule: OptimizerRule,
    options: OptimizerOptions,
    param_groups: ParamGroupOptions,
}

/// Default seed.
const DEFAULT_SEED: u64 = 42;

/// Default recipe of a dataset. The recipes of digits and fashion-mnist were tuned for accuracy in little CPU time; the others
/// derive from them.
struct Recipe {
    model: &'static str,
    batch_size: u32,
    epochs: u32,
    warmup_epochs: u32,
    /// Learning rate and weight decay of SGD.
    sgd: [f64; 2],
    /// Learning rate and weight decay of AdamW.
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
        // Five epochs are too few to benefit from shifts or smoothing.
        "fashion-mnist" => Recipe { hflip: 0.5, shift: 0, smoothing: 0.0, ..MNIST },
        _ => MNIST,
    }
}

impl Config {
    /// Resolves every value. Errors on settings without effect and on contradictions.
    pub fn resolve(given: &Settings) -> Result<Config> {
        let name = given.dataset.as_deref().unwrap_or("digits");
        let dataset = data::find(name).ok_or_else(|| unknown_dataset(name))?;
        let recipe = recipe(name);
        let name = given.opt.clone().unwrap_or_else(|| "sgd".parse().expect("an optimizer"));
        let sched = given.sched.unwrap_or(Sched::Cosine);
        let precision = precision(given)?;
        let [default_lr, default_decay] = name.default_lr_and_weight_decay(recipe.sgd, recipe.adamw);
        let batch_size = given.batch_size.unwrap_or(recipe.batch_size);
        let grad_accum_steps = given.grad_accum_steps.unwrap_or(1);
        let lr =
            given.lr.or_else(|| scaled_lr(given, &name, batch_size * grad_accum_steps)).unwrap_or(default_lr);
        let schedule = schedule::options(given, sched, &recipe, lr);
        ignored_flags::reject_ignored_flags(&FlagContext {
            given,
            sched,
            warmup_epochs: schedule.warmup_epochs,
        })?;
        let loss = loss::resolved(given, recipe.smoothing);
        let seed = given.seed.unwrap_or(DEFAULT_SEED);
        let (rule, options) = optim::resolve_rule(&name, &optimizer_options(given, lr))?;
        let param_groups = ParamGroupOptions {
            weight_decay: given.weight_decay.unwrap_or(default_decay),
            layer_decay: given.layer_decay.map(|decay| LayerDecay {
                decay,
                min_scale: given.layer_decay_min_scale.unwrap_or(0.0),
                no_opt_scale: given.layer_decay_no_opt_scale,
            }),
        };
        if rule.hessian.is_some() && precision.needs_loss_scaling() {
            return Err(Error::usage(format!("{name} does not train in f16"))
                .because("second derivatives overflow f16 at any loss scale")
                .remedy("give --amp-dtype bfloat16 or --no-amp"));
        }
        let optimizer = OptimizerConfig { name, rule, options, param_groups };
        let mut config = Config {
            dataset,
            settings: given.clone(),
            model: ModelConfig::new(given, given.model.as_deref().unwrap_or(recipe.model))?,
            batch_size: batch_size as usize,
            validation_batch_size: given.validation_batch_size.unwrap_or(256) as usize,
            schedule: sched.create(&schedule)?,
            loss: loss::loss(&loss),
            loss_name: loss::name(&loss),
            ema: given.model_ema.unwrap_or(false).then(|| EmaOptions {
                decay: given.model_ema_decay.unwrap_or(EmaOptions::default().decay),
                warmup: given.model_ema_warmup.unwrap_or(false).then(EmaWarmup::default),
                ..EmaOptions::default()
            }),
            ema_on_cpu: given.model_ema_force_cpu.unwrap_or(false),
            precision,
            clip: clip(given),
            grad_accum_steps: grad_accum_steps as usize,
            checkpointing: given.grad_checkpointing.unwrap_or(false),
            augment: Augment {
                shift: given.shift.unwrap_or(recipe.shift),
                hflip: given.hflip.unwrap_or(recipe.hflip),
            },
            seed,
            eval_metric: given.eval_metric.unwrap_or(EvalMetric::Top1),
            cudnn_benchmark: given.cudnn_benchmark.unwrap_or(true),
            deterministic: given.deterministic.unwrap_or(true),
            optimizer,
        };
        config.settings = schedule::resolved(sched, &schedule)
            .over(loss)
            .over(config.model.resolved(given))
            .over(config.resolved());
        Ok(config)
    }

    /// Creates the optimizer for a model's parameters.
    pub fn optimizer(&self, model: &dyn Model) -> Result<Optimizer> {
        let OptimizerConfig { rule, param_groups, .. } = &self.optimizer;
        let parameters = param_groups::parameters(model, param_groups);
        if parameters.is_empty() {
            return Err(Error::usage("every layer is frozen")
                .at("--layer-decay-no-opt-scale")
                .remedy("choose at most 1"));
        }
        let optimizer = Optimizer::new(parameters, rule.clone(), self.gradient_rule())?;
        Ok(match self.precision.weight_rounding() {
            Some(dtype) => optimizer.with_rounded_weights(dtype),
            None => optimizer,
        })
    }

    /// Gradient processing before the update rule: loss scaling and clipping.
    pub fn gradient_rule(&self) -> GradientRule {
        GradientRule {
            scaling: self.precision.needs_loss_scaling().then(LossScaling::default),
            clip: self.clip,
        }
    }

    /// Optimizer state tensors per parameter.
    pub fn state_tensors_per_parameter(&self) -> u64 {
        self.optimizer.rule.update.state_spec().moments.len() as u64
    }

    /// Resolved settings that have an effect, without those of model, schedule and loss.
    fn resolved(&self) -> Settings {
        let optimizer = &self.optimizer;
        let layer_decay = optimizer.param_groups.layer_decay;
        Settings {
            dataset: Some(self.dataset.name.into()),
            data_dir: self.settings.data_dir.clone(),
            batch_size: Some(self.batch_size as u32),
            validation_batch_size: Some(self.validation_batch_size as u32),
            opt: Some(optimizer.name.clone()),
            momentum: optimizer.options.momentum,
            opt_betas: optimizer.options.betas.clone(),
            opt_eps: optimizer.options.eps,
            opt_kwargs: self.settings.opt_kwargs.clone(),
            weight_decay: Some(optimizer.param_groups.weight_decay),
            layer_decay: layer_decay.map(|by| by.decay),
            layer_decay_min_scale: layer_decay.map(|by| by.min_scale),
            layer_decay_no_opt_scale: layer_decay.and_then(|by| by.no_opt_scale),
            model_ema: Some(self.ema.is_some()),
            model_ema_decay: self.ema.map(|ema| ema.decay),
            model_ema_warmup: self.ema.map(|ema| ema.warmup.is_some()),
            model_ema_force_cpu: self.ema.map(|_| self.ema_on_cpu),
            clip_grad: self.settings.clip_grad,
            clip_mode: self.settings.clip_grad.map(|_| self.settings.clip_mode.unwrap_or(ClipMode::Norm)),
            grad_accum_steps: Some(self.grad_accum_steps as u32),
            amp_dtype: self.precision.half_dtype().map(|dtype| match dtype {
                DType::BF16 => AmpDtype::Bfloat16,
                _ => AmpDtype::Float16,
            }),
            opt_level: Some(self.precision.level().into()),
            grad_checkpointing: Some(self.checkpointing),
            hflip: Some(self.augment.hflip),
            shift: Some(self.augment.shift),
            seed: Some(self.seed),
            eval_metric: Some(self.eval_metric),
            // Without effect on the CPU, so that defaults are left out.
            cudnn_benchmark: self.settings.cudnn_benchmark,
            deterministic: self.settings.deterministic,
            ..Settings::default()
        }
    }
}

/// Resolves `--amp`, `--amp-dtype` and `--opt-level`: `--amp` is level O1; f16 is the default dtype.
fn precision(given: &Settings) -> Result<Precision> {
    let level = match (given.amp, given.opt_level) {
        (Some(true), Some(OptLevelArg::O0)) => {
            return Err(Error::usage("--amp contradicts --opt-level O0").remedy("give one of the two"));
        }
        (Some(false), Some(level)) if level != OptLevelArg::O0 => {
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

/// timm's rule: `lr_base` times the ratio `batch_size / lr_base_size`, or times its square root.
fn scaled_lr(given: &Settings, name: &OptimizerName, batch_size: u32) -> Option<f64> {
    let ratio = f64::from(batch_size) / f64::from(given.lr_base_size.unwrap_or(256));
    let adaptive = ["ada", "lamb"].iter().any(|part| name.base_name().contains(part));
    let default = if adaptive { LrScale::Sqrt } else { LrScale::Linear };
    let factor = match given.lr_base_scale.unwrap_or(default) {
        LrScale::Linear => ratio,
        LrScale::Sqrt => ratio.sqrt(),
    };
    given.lr_base.map(|base| base * factor)
}

/// Optimizer options from settings.
fn optimizer_options(given: &Settings, lr: f64) -> OptimizerOptions {
    let kwargs = given.opt_kwargs.iter().flatten().filter_map(|text| text.split_once('='));
    OptimizerOptions {
        lr: Some(lr),
        momentum: given.momentum,
        eps: given.opt_eps,
        betas: given.opt_betas.clone(),
        kwargs: kwargs.map(|(name, value)| (name.into(), value.parse().expect("checked"))).collect(),
    }
}

fn clip(given: &Settings) -> Option<GradClip> {
    let limit = given.clip_grad? as f32;
    Some(match given.clip_mode.unwrap_or(ClipMode::Norm) {
        ClipMode::Norm => GradClip::Norm(limit),
        ClipMode::Value => GradClip::Value(limit),
        ClipMode::Agc => GradClip::Agc(limit),
    })
}

fn unknown_dataset(name: &str) -> Error {
    let names: Vec<&str> = data::DATASETS.iter().map(|d| d.name).collect();
    let error = Error::usage(format!("unknown dataset {name:?}")).at("--dataset");
    error.because(format!("the datasets are {}", names.join(", "))).remedy(
        match crate::nearest::nearest(name, names) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "choose one of these".into(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn resolved_settings_resolve_to_themselves() {
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
        let schedules = Sched::value_variants().iter().map(|sched| Settings {
            sched: Some(*sched),
            warmup_epochs: (*sched == Sched::Rsqrt).then_some(2),
            lr_lambda: (*sched == Sched::Lambda).then(|| "0.9 ** epoch".into()),
            lr_noise: Some(vec![0.5]),
            ..Settings::default()
        });
        for given in cases.into_iter().chain(schedules) {
            let once = Config::resolve(&given).expect("valid");
            let twice = Config::resolve(&once.settings).expect("resolved settings are valid");
            assert_eq!(once.settings, twice.settings);
            assert_eq!(once.schedule, twice.schedule);
        }
    }

    #[test]
    fn lr_base_scales_with_batch_size() {
        let given = Settings { lr_base: Some(0.1), batch_size: Some(1024), ..Settings::default() };
        assert_eq!(Config::resolve(&given).expect("valid").schedule.lr, 0.4);
        let given = Settings { opt: Some("adamw".parse().expect("a name")), ..given };
        assert_eq!(Config::resolve(&given).expect("valid").schedule.lr, 0.2);
    }

    #[test]
    fn flags_without_effect_are_rejected() {
        let adam = Settings {
            opt: Some("adamw".parse().expect("a name")),
            momentum: Some(0.9),
            ..Settings::default()
        };
        let both = Settings { lr: Some(0.1), lr_base: Some(0.1), ..Settings::default() };
        let cold = Settings { warmup_epochs: Some(0), warmup_lr: Some(0.1), ..Settings::default() };
        let warm = Settings { warmup_epochs: Some(5), epochs: Some(5), ..Settings::default() };
        let cosine = Settings { decay_epochs: Some(3.0), ..Settings::default() };
        let cycle = Settings { lr_cycle_decay: Some(0.9), ..Settings::default() };
        let quiet = Settings { lr_noise_std: Some(0.1), ..Settings::default() };
        let updates =
            Settings { sched: Some(Sched::Plateau), sched_on_updates: Some(true), ..Settings::default() };
        for (given, flag) in [
            (adam, "--momentum"),
            (both, "--lr-base"),
            (cold, "--warmup-lr"),
            (warm, "--warmup-epochs"),
            (cosine, "--decay-epochs"),
            (cycle, "--lr-cycle-decay"),
            (quiet, "--lr-noise-std"),
            (updates, "--sched-on-updates"),
        ] {
            let error = Config::resolve(&given).expect_err(flag).to_string();
            assert!(error.contains(flag), "{error}");
        }
    }
}
