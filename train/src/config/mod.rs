//! Configuration of a run: every value resolved from the user's [`Settings`] and the dataset's defaults.
mod augment;
mod data;
mod ignored;
mod input;
mod loss;
mod model;
mod origin;
mod precision;
mod recipe;
mod schedule;
mod values;

pub use augment::AugmentConfig;
pub use data::{DEFAULT_VAL_FRACTION, DataConfig};
pub use ignored::{IgnoredOption, ignored_warning};
pub use input::InputConfig;
pub use model::{ModelConfig, timm_name, unknown_model};
pub use origin::Origin;

use crate::data::DatasetSplits;
use crate::ema::{EmaOptions, EmaWarmup};
use crate::optim::param_groups::{self, LayerDecay, ParamGroupOptions};
use crate::optim::{self, Optimizer, OptimizerName, OptimizerOptions, OptimizerRule};
use crate::schedule::{Sched, Schedule};
use crate::settings::{
    self, AUTO_BATCH_SIZE, AmpDtype, ClipMode, DefaultSet, DistBn, EvalMetric, LrScale, NonfinitePolicy,
    Settings, SettingsContext,
};
use crate::weights::{WeightsSource, identity_at};
use crate::{Error, Result};
use fornax_engine::{ConvAlgorithm, DType, GradClip, GradientRule, LossScaling};
use fornax_nn::Precision;
use fornax_nn::loss::Loss;
use fornax_nn::models::Model;
use recipe::Recipe;
use std::path::PathBuf;
use std::sync::Arc;

/// Resolved configuration of a run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Dataset and loader.
    pub data: DataConfig,
    /// Every setting that has an effect, with its value: the content of `args.yaml`.
    pub settings: Settings,
    /// Given settings that have no effect and are not at their defaults.
    pub ignored: Vec<IgnoredOption>,
    /// Warnings about unusual values.
    pub warnings: Vec<String>,
    /// Settings of the model and its input in the file of the initial weights: the defaults of settings that are not given.
    pub of_weights: Settings,
    /// The model, without the number of classes and channels.
    pub model: ModelConfig,
    /// Training batch size of a rank, in images.
    pub batch_size: usize,
    /// Validation batch size of a rank, in images.
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
    /// Augmentation of training images and batches.
    pub augment: AugmentConfig,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Metric that ranks checkpoints.
    pub eval_metric: EvalMetric,
    /// Epochs between evaluations; the last epoch is always evaluated.
    pub val_interval: u32,
    /// Updates between recovery checkpoints; 0 for none.
    pub recovery_interval: u64,
    /// Number of ranked checkpoints.
    pub checkpoint_hist: usize,
    /// Saves a mosaic of the training batch at every log line.
    pub save_images: bool,
    /// First epoch; it replaces the epoch of the checkpoint.
    pub start_epoch: Option<u32>,
    /// Resumes without the state of optimizer and loss scaling.
    pub no_resume_opt: bool,
    /// Evaluations without improvement after which the run ends.
    pub early_stop_patience: Option<u32>,
    /// Policy for a non-finite training loss.
    pub on_nonfinite: NonfinitePolicy,
    /// Training batches per epoch; `None` for all.
    pub batches_per_epoch: Option<usize>,
    /// On the CPU: algorithm of convolutions.
    pub conv_algorithm: ConvAlgorithm,
    /// On a CUDA device: chooses cuDNN's convolution plans by timing.
    pub cudnn_benchmark: bool,
    /// On a CUDA device: only deterministic cuDNN engines and NCCL algorithms.
    pub deterministic: bool,
    /// Number of ranks.
    pub world_size: usize,
    /// Synchronised batch norm.
    pub sync_bn: bool,
    /// Distribution of running statistics at the end of an epoch.
    pub dist_bn: DistBn,
    /// Dtype of gradients between ranks, if it is not f32.
    pub compression: Option<DType>,
    optimizer: OptimizerConfig,
}

#[derive(Clone, Debug)]
struct OptimizerConfig {
    name: OptimizerName,
    rule: OptimizerRule,
    options: OptimizerOptions,
    param_groups: ParamGroupOptions,
}

/// Settings in the local file of the initial weights. A file that cannot be read is reported when the weights are loaded, which a resumed run
/// does not do.
fn of_weights(given: &Settings) -> Settings {
    let path = given.initial_checkpoint.clone().or_else(|| given.pretrained_path.as_ref().map(PathBuf::from));
    let Some(path) = path else { return Settings::default() };
    let resolved = WeightsSource::Path(path).resolve_local();
    resolved.and_then(|path| identity_at(&path)).map_or_else(Settings::default, |identity| identity.settings)
}

/// Default seed.
const DEFAULT_SEED: u64 = 42;

impl Config {
    /// Resolves every value for a run of one process. Errors on values outside of their ranges and on contradictions.
    pub fn resolve(given: &Settings) -> Result<Config> {
        Config::resolve_for(given, 1)
    }

    /// As [`Config::resolve`], for a run of `world_size` ranks, each with a batch of `--batch-size` images.
    pub fn resolve_for(given: &Settings, world_size: usize) -> Result<Config> {
        values::check(given)?;
        // A learning rate of 0 is an unset one, as in timm.
        let given = &Settings { lr: given.lr.filter(|lr| *lr > 0.0), ..given.clone() };
        let of_weights = of_weights(given);
        let data = DataConfig::new(given)?;
        let recipe = match given.defaults.unwrap_or_default() {
            DefaultSet::Fornax => Recipe::of(&data.dataset)?,
            DefaultSet::Timm => Recipe::of(&data.dataset)?.of_timm(),
        };
        let given = &given.clone().over(of_weights.filtered(|name| match name {
            "exif_orientation" => recipe.has_image_files,
            // Options of the same model.
            "model_kwargs" | "gp" | "bn_eps" | "bn_tf" => {
                given.model.is_none() || given.model == of_weights.model
            }
            _ => false,
        }));
        let data = DataConfig::new(given)?;
        let name = given.opt.clone().unwrap_or_else(|| "sgd".parse().expect("an optimizer"));
        let sched = given.sched.unwrap_or(Sched::Cosine);
        let [default_lr, default_decay] = name.default_lr_and_weight_decay(recipe.sgd, recipe.adamw);
        let batch_size = given.batch_size.unwrap_or(recipe.batch_size);
        if batch_size == AUTO_BATCH_SIZE {
            return Err(Error::usage("--batch-size auto is an option of `fornax train`")
                .because("other commands measure no training step")
                .remedy("use a number"));
        }
        if given.seeds.is_some() {
            return Err(Error::usage("--seeds is an option of `fornax train`")
                .because("other commands have one seed")
                .remedy("use --seed"));
        }
        let grad_accum_steps = given.grad_accum_steps.unwrap_or(1);
        let lr_base = given.lr_base.or(recipe.lr_base).filter(|_| given.lr.is_none());
        let global_batch_size = f64::from(batch_size) * world_size as f64 * f64::from(grad_accum_steps);
        let lr = given.lr.or(lr_base.map(|base| base * lr_scale(given, &name, global_batch_size)));
        let lr = lr.unwrap_or(default_lr);
        let schedule = schedule::options(given, sched, &recipe, lr);
        let context = SettingsContext {
            given,
            sched,
            has_warmup: schedule.warmup_epochs > 0,
            scales_lr: lr_base.is_some(),
            has_momentum: has_momentum(&name, lr),
            has_image_files: recipe.has_image_files,
            train_crop_mode: Some(given.train_crop_mode.unwrap_or(recipe.crop)),
            has_color_jitter: settings::jitters_colors(
                given.color_jitter.as_deref().unwrap_or(recipe.color_jitter),
            ),
            has_ranks: world_size > 1,
        };
        let mut warnings = values::unusual(given);
        let (given, ignored) = ignored::without_ignored(&context)?;
        let given = &given;
        let schedule = schedule::options(given, sched, &recipe, lr);
        warnings.extend(schedule::long_warmup(sched, &schedule));
        if given.sync_bn == Some(true) && given.split_bn == Some(true) {
            return Err(Error::usage("--sync-bn and --split-bn exclude each other")
                .because("split batch norm has statistics of its own for each split, of one rank")
                .remedy("use one of the two"));
        }
        let precision = precision::resolve(given)?;
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
                .remedy("use --amp-dtype bfloat16 or --no-amp"));
        }
        let optimizer = OptimizerConfig { name, rule, options, param_groups };
        let smoothing = loss.smoothing.unwrap_or(0.0);
        let mut config = Config {
            augment: AugmentConfig::new(given, &recipe, smoothing, batch_size)?,
            data,
            settings: given.clone(),
            ignored,
            warnings,
            model: ModelConfig::new(
                given,
                given.model.as_deref().or(of_weights.model.as_deref()).unwrap_or(recipe.model),
            )?,
            of_weights,
            batch_size: batch_size as usize,
            validation_batch_size: given.validation_batch_size.unwrap_or(match given.defaults {
                Some(DefaultSet::Timm) => batch_size,
                _ => 256,
            }) as usize,
            schedule: sched.create(&schedule)?,
            loss: loss::loss(given, &loss),
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
            seed,
            eval_metric: given.eval_metric.unwrap_or(EvalMetric::Top1),
            val_interval: given.val_interval.unwrap_or(1),
            recovery_interval: given.recovery_interval.unwrap_or(0),
            checkpoint_hist: given.checkpoint_hist.unwrap_or(10) as usize,
            save_images: given.save_images.unwrap_or(false),
            start_epoch: given.start_epoch,
            no_resume_opt: given.no_resume_opt.unwrap_or(false),
            early_stop_patience: given.early_stop_patience,
            on_nonfinite: given.on_nonfinite.unwrap_or_default(),
            batches_per_epoch: given.train_batches_per_epoch.map(|batches| batches as usize),
            conv_algorithm: given.conv_algo.unwrap_or_default().into(),
            cudnn_benchmark: given.cudnn_benchmark.unwrap_or(true),
            deterministic: given.deterministic.unwrap_or(true),
            world_size,
            sync_bn: given.sync_bn.unwrap_or(false),
            dist_bn: match given.sync_bn {
                Some(true) => DistBn::None,
                _ => given.dist_bn.unwrap_or_default(),
            },
            compression: given.ddp_compress.map(DType::from),
            optimizer,
        };
        let settings = schedule::resolved(sched, &schedule)
            .over(loss)
            .over(config.model.resolved(given))
            .over(config.data.resolved(given))
            .over(config.augment.resolved(given))
            .over(config.resolved());
        config.settings = ignored::effective(&SettingsContext { given: &settings, ..context });
        Ok(config)
    }

    /// Training batch size of all ranks together, in images.
    pub fn global_batch_size(&self) -> usize {
        self.batch_size * self.world_size
    }

    /// Ignores the options without effect on the format of the dataset: they are in `ignored` then. Without this call, opening the dataset
    /// errors on them.
    pub fn ignore_dataset_options(&mut self) {
        let (dataset, of_dataset) = self.data.dataset.without_ignored();
        self.data.dataset = dataset;
        self.settings = self.settings.filtered(|name| of_dataset.iter().all(|(other, _)| *other != name));
        self.ignored.extend(of_dataset.into_iter().map(|(name, why)| IgnoredOption::new(name, why)));
    }

    /// Resolves the input of the network for a dataset, and adds it to the settings.
    pub fn resolve_input(&mut self, data: &DatasetSplits) -> Result<InputConfig> {
        let input =
            InputConfig::resolve(&self.settings, data, &self.of_weights, self.model.pretrained_cfg()?)?;
        if input.channels == 1 && self.settings.grayscale_prob.is_some_and(|p| p > 0.0) {
            let why = "the images are grey: the model has 1 input channel";
            self.ignored.push(IgnoredOption::new("grayscale_prob", why));
            self.settings.grayscale_prob = None;
        }
        let settings = Settings { img_size: None, in_chans: None, ..self.settings.clone() };
        self.settings = input.resolved().over(settings);
        Ok(input)
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
        let scaling = match (self.precision.needs_loss_scaling(), self.on_nonfinite) {
            (true, _) => Some(LossScaling::default()),
            // A constant scale of 1: the update is skipped if a gradient is not finite.
            (false, NonfinitePolicy::Skip | NonfinitePolicy::Rollback) => {
                let (init_scale, growth_factor, backoff_factor) = (1.0, 1.0, 1.0);
                Some(LossScaling { init_scale, growth_factor, backoff_factor, ..LossScaling::default() })
            }
            (false, NonfinitePolicy::Stop) => None,
        };
        GradientRule { scaling, clip: self.clip }
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
            defaults: self.settings.defaults,
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
            seed: Some(self.seed),
            eval_metric: Some(self.eval_metric),
            val_interval: Some(self.val_interval),
            recovery_interval: Some(self.recovery_interval),
            checkpoint_hist: Some(self.checkpoint_hist as u32),
            save_images: Some(self.save_images),
            early_stop_patience: self.early_stop_patience,
            on_nonfinite: Some(self.on_nonfinite),
            train_batches_per_epoch: self.settings.train_batches_per_epoch,
            // A run without it is of a version that computed every convolution directly.
            conv_algo: Some(self.settings.conv_algo.unwrap_or_default()),
            // Without effect on the CPU, so defaults are omitted.
            cudnn_benchmark: self.settings.cudnn_benchmark,
            deterministic: self.settings.deterministic,
            sync_bn: self.settings.sync_bn,
            dist_bn: self.settings.dist_bn,
            ddp_compress: self.settings.ddp_compress,
            ..Settings::default()
        }
    }
}

/// timm's factor of `lr_base`: the ratio `batch_size / lr_base_size`, or its square root.
fn lr_scale(given: &Settings, name: &OptimizerName, batch_size: f64) -> f64 {
    let ratio = batch_size / f64::from(given.lr_base_size.unwrap_or(256));
    let adaptive = ["ada", "lamb"].iter().any(|part| name.base_name().contains(part));
    let default = if adaptive { LrScale::Sqrt } else { LrScale::Linear };
    match given.lr_base_scale.unwrap_or(default) {
        LrScale::Linear => ratio,
        LrScale::Sqrt => ratio.sqrt(),
    }
}

/// True if the optimizer reads a momentum.
fn has_momentum(name: &OptimizerName, lr: f64) -> bool {
    let with = |momentum| OptimizerOptions { lr: Some(lr), momentum, ..OptimizerOptions::default() };
    let is_valid = |momentum| optim::resolve_rule(name, &with(momentum)).is_ok();
    is_valid(Some(0.9)) || !is_valid(None)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ImageMode;
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
        let timm = Settings { defaults: Some(DefaultSet::Timm), ..Settings::default() };
        let cases = cases.into_iter().chain([timm]);
        let schedules = Sched::value_variants().iter().map(|sched| Settings {
            sched: Some(*sched),
            warmup_epochs: (*sched == Sched::Rsqrt).then_some(2),
            lr_lambda: (*sched == Sched::Lambda).then(|| "0.9 ** epoch".into()),
            lr_noise: Some(vec![0.5]),
            ..Settings::default()
        });
        for given in cases.chain(schedules) {
            let once = Config::resolve(&given).expect("valid");
            let twice = Config::resolve(&once.settings).expect("resolved settings are valid");
            assert_eq!(once.settings, twice.settings);
            assert_eq!(once.schedule, twice.schedule);
        }
    }

    #[test]
    fn input_img_mode_sets_the_channels() {
        let of = |given: Settings| Config::resolve(&given).map(|config| config.data.dataset.channels);
        let rgb = Settings { input_img_mode: Some(ImageMode::Rgb), ..Settings::default() };
        assert_eq!(of(rgb.clone()).expect("valid"), Some(3));
        let grey = Settings { input_img_mode: Some(ImageMode::L), ..Settings::default() };
        assert_eq!(of(grey).expect("valid"), Some(1));
        let error = of(Settings { in_chans: Some(1), ..rgb }).expect_err("a contradiction").to_string();
        assert!(error.contains("--input-img-mode"), "{error}");
    }

    #[test]
    fn settings_without_effect_are_ignored_in_silence_at_their_default() {
        let given = Settings {
            clip_mode: Some(ClipMode::Norm),
            decay_epochs: Some(90.0),
            lr: Some(0.05),
            lr_base: Some(0.1),
            opt: Some("adamw".parse().expect("a name")),
            momentum: Some(0.9),
            epoch_repeats: Some(0.0),
            ..Settings::default()
        };
        let config = Config::resolve(&given).expect("valid");
        assert_eq!(config.ignored, []);
        assert_eq!((config.schedule.lr, config.data.epoch_repeats), (0.05, 1.0));
        assert_eq!((config.settings.momentum, config.settings.clip_mode), (None, None));
    }

    #[test]
    fn lr_base_scales_with_batch_size() {
        let given = Settings { lr_base: Some(0.1), batch_size: Some(1024), ..Settings::default() };
        assert_eq!(Config::resolve(&given).expect("valid").schedule.lr, 0.4);
        let given = Settings { opt: Some("adamw".parse().expect("a name")), ..given };
        assert_eq!(Config::resolve(&given).expect("valid").schedule.lr, 0.2);
    }

    #[test]
    fn resplit_without_augmentation_splits_halves_the_batch() {
        let given = Settings { reprob: Some(0.5), resplit: Some(true), ..Settings::default() };
        let splits = |given: &Settings| {
            let config = Config::resolve(given).expect("valid");
            config.augment.batch_augmentation(4).expect("erases").erasing.num_splits
        };
        assert_eq!(splits(&given), 2);
        assert_eq!(splits(&Settings { aug_splits: Some(3), ..given }), 3);
    }

    #[test]
    fn loader_options_below_one_name_their_flag() {
        for (given, flag) in [
            (Settings { epoch_repeats: Some(0.5), ..Settings::default() }, "--epoch-repeats"),
            (Settings { prefetch: Some(0), ..Settings::default() }, "--prefetch"),
        ] {
            let error = Config::resolve(&given).expect_err(flag).to_string();
            assert!(error.contains(flag) && error.contains("use at least 1"), "{error}");
        }
    }

    #[test]
    fn settings_without_effect_are_ignored_with_their_reason() {
        let adam = Settings {
            opt: Some("adamw".parse().expect("a name")),
            momentum: Some(0.8),
            ..Settings::default()
        };
        let both = Settings { lr: Some(0.1), lr_base: Some(0.2), ..Settings::default() };
        let cold = Settings { warmup_epochs: Some(0), warmup_lr: Some(0.1), ..Settings::default() };
        let cosine = Settings { decay_epochs: Some(3.0), ..Settings::default() };
        let cycle = Settings { lr_cycle_decay: Some(0.9), ..Settings::default() };
        let quiet = Settings { lr_noise_std: Some(0.1), ..Settings::default() };
        let updates =
            Settings { sched: Some(Sched::Plateau), sched_on_updates: Some(true), ..Settings::default() };
        for (given, name, why) in [
            (adam, "momentum", "the optimizer has no momentum"),
            (both, "lr_base", "the learning rate is not scaled with the batch size"),
            (cold, "warmup_lr", "there is no warmup"),
            (cosine, "decay_epochs", "the schedule cosine does not use it"),
            (cycle, "lr_cycle_decay", "there is one cycle"),
            (quiet, "lr_noise_std", "there is no noise"),
            (updates, "sched_on_updates", "the schedule plateau does not use it"),
        ] {
            let config = Config::resolve(&given).expect("valid");
            assert_eq!(config.ignored.len(), 1, "{:?}", config.ignored);
            assert_eq!(config.ignored[0].name, name);
            assert!(config.ignored[0].why == why || config.ignored[0].why == "--lr is given");
            let without = Config::resolve(&given.filtered(|other| other != name)).expect("valid");
            assert_eq!(config.settings, without.settings, "{name} changes nothing");
        }
    }

    #[test]
    fn contradictions_are_rejected() {
        // Of these schedules no epoch is left; others only rise, with a warning.
        let all_warmup = Settings { warmup_epochs: Some(5), epochs: Some(5), ..Settings::default() };
        assert_eq!(Config::resolve(&all_warmup).expect("valid").warnings.len(), 1);
        let warm = Settings { sched: Some(Sched::Wsd), ..all_warmup };
        let own = Settings {
            pretrained: Some(false),
            pretrained_path: Some("w.safetensors".into()),
            ..Settings::default()
        };
        let jsd = Settings { jsd_loss: Some(true), ..Settings::default() };
        for (given, flag) in [(warm, "--warmup-epochs"), (own, "--pretrained-path"), (jsd, "--jsd-loss")] {
            let error = Config::resolve(&given).expect_err(flag).to_string();
            assert!(error.contains(flag), "{error}");
        }
    }

    #[test]
    fn timm_defaults_are_taken_for_every_dataset() {
        let timm = Settings { defaults: Some(DefaultSet::Timm), ..Settings::default() };
        let config = Config::resolve(&timm).expect("valid");
        assert_eq!(
            (config.model.name.as_str(), config.batch_size, config.settings.epochs),
            ("resnet50", 128, Some(300))
        );
        assert_eq!(
            (config.schedule.on_updates, config.schedule.lr, config.settings.warmup_epochs),
            (false, 0.05, Some(5))
        );
        let step = Settings { sched: Some(Sched::Step), epochs: Some(200), ..timm.clone() };
        assert_eq!(Config::resolve(&step).expect("valid").settings.decay_epochs, Some(90.0));
        let own = Settings { defaults: None, ..step };
        assert_eq!(Config::resolve(&own).expect("valid").settings.decay_epochs, Some(60.0));
        let old = Settings { drop_connect: Some(0.2), ..Settings::default() };
        let rate = |given: &Settings| Config::resolve(given).expect("valid").model.options.drop_path_rate;
        assert_eq!(
            (rate(&old), rate(&Settings { defaults: Some(DefaultSet::Timm), ..old.clone() })),
            (0.2, 0.0)
        );
    }
}
