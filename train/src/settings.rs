//! Settings of a training run as given on the command line, in a YAML file or in a checkpoint. All are optional;
//! [`crate::config`] resolves them.
use crate::optim::{KwargValue, OptimizerName};
use crate::report::EpochMetrics;
use crate::schedule::{DecayFn, Sched};
use clap::{Args, ValueEnum, value_parser};
use fornax_nn::OptLevel;
use fornax_nn::models::Pooling;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// User settings of a run's dataset, model and training; `None` where nothing is given.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Dataset name; `fornax datasets` lists them [default: digits]
    #[arg(long, value_name = "NAME", help_heading = "Dataset")]
    pub dataset: Option<String>,
    /// Dataset root folder
    #[arg(long, value_name = "DIR", help_heading = "Dataset")]
    pub data_dir: Option<PathBuf>,
    /// Training batch size, in images
    #[arg(long, short = 'b', value_name = "N", help_heading = "Dataset", value_parser = value_parser!(u32).range(1..))]
    pub batch_size: Option<u32>,
    /// Validation batch size, in images (also -vb) [default: 256]
    #[arg(long, value_name = "N", help_heading = "Dataset", value_parser = value_parser!(u32).range(1..))]
    pub validation_batch_size: Option<u32>,

    /// Model architecture name; `fornax models` lists them
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub model: Option<String>,
    /// Start from published pretrained weights; the classifier is re-initialised if the number of classes differs
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Model")]
    pub pretrained: Option<bool>,
    /// Start from these pretrained weights: a safetensors file, a folder, or hf-hub:ORGANISATION/NAME
    #[arg(long, value_name = "SOURCE", help_heading = "Model")]
    pub pretrained_path: Option<String>,
    /// Start from the weights in this safetensors file or folder; every tensor must match the model
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub initial_checkpoint: Option<PathBuf>,

    /// Dropout rate before the classifier [default: 0]
    #[arg(long, value_name = "P", help_heading = "Model", value_parser = below_one)]
    pub drop: Option<f64>,
    /// Drop path rate (stochastic depth) of the last block, linearly less in earlier blocks [default: 0]
    #[arg(long, value_name = "P", help_heading = "Model", value_parser = below_one)]
    pub drop_path: Option<f64>,
    /// DropBlock rate in the last two stages; ResNets only [default: 0]
    #[arg(long, value_name = "P", help_heading = "Model", value_parser = below_one)]
    pub drop_block: Option<f64>,
    /// Batch norm momentum: weight of the batch in the running statistics [default: the model's own]
    #[arg(long, value_name = "M", help_heading = "Batch norm", value_parser = positive)]
    pub bn_momentum: Option<f64>,
    /// Batch norm epsilon [default: the model's own]
    #[arg(long, value_name = "EPS", help_heading = "Batch norm", value_parser = positive)]
    pub bn_eps: Option<f64>,
    /// TensorFlow's batch norm defaults: momentum 0.01, epsilon 1e-3
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Batch norm")]
    pub bn_tf: Option<bool>,
    /// Global pooling type: avg, max, avgmax, catavgmax, or token for transformers [default: the model's own]
    #[arg(long, value_name = "NAME", help_heading = "Model", value_parser = pooling)]
    pub gp: Option<String>,
    /// Scale of the classifier's initial weights and biases [default: 1]
    #[arg(long, value_name = "FACTOR", help_heading = "Model", value_parser = non_negative)]
    pub head_init_scale: Option<f64>,
    /// Initial value of the classifier's biases [default: the model's own]
    #[arg(long, value_name = "VALUE", help_heading = "Model", allow_negative_numbers = true)]
    pub head_init_bias: Option<f64>,

    /// Optimizer, by timm's name; the prefix lookahead_ wraps it in Lookahead [default: sgd]
    #[arg(long, value_name = "NAME", help_heading = "Optimizer")]
    pub opt: Option<OptimizerName>,
    /// Peak learning rate (mutually exclusive with --lr-base)
    #[arg(long, value_name = "LR", help_heading = "Optimizer", value_parser = positive)]
    pub lr: Option<f64>,
    /// Base learning rate: peak at batch size --lr-base-size, scaled to the actual batch size (mutually exclusive with --lr)
    #[arg(long, value_name = "LR", help_heading = "Optimizer", value_parser = positive)]
    pub lr_base: Option<f64>,
    /// Reference batch size of --lr-base [default: 256]
    #[arg(long, value_name = "N", help_heading = "Optimizer", value_parser = value_parser!(u32).range(1..))]
    pub lr_base_size: Option<u32>,
    /// Scaling of --lr-base with the batch size [default: sqrt if the optimizer's name contains ada or lamb, else linear]
    #[arg(long, value_name = "RULE", help_heading = "Optimizer")]
    pub lr_base_scale: Option<LrScale>,
    /// Momentum, for optimizers that have it [default: the optimizer's own, 0.9 for most]
    #[arg(long, value_name = "M", help_heading = "Optimizer", value_parser = below_one)]
    pub momentum: Option<f64>,
    /// Betas (decay rates of the moments) [default: the optimizer's own, 0.9 0.999 for most]
    #[arg(long, value_name = "B", num_args = 2..=3, help_heading = "Optimizer", value_parser = below_one)]
    pub opt_betas: Option<Vec<f64>>,
    /// Epsilon in the denominator [default: the optimizer's own, 1e-8 for most]
    #[arg(long, value_name = "EPS", help_heading = "Optimizer", value_parser = positive)]
    pub opt_eps: Option<f64>,
    /// Further optimizer arguments, by timm's names
    #[arg(long, value_name = "NAME=VALUE", num_args = 1.., help_heading = "Optimizer", value_parser = name_value)]
    pub opt_kwargs: Option<Vec<String>>,
    /// Weight decay; not applied to biases and one-dimensional parameters
    #[arg(long, value_name = "WD", help_heading = "Optimizer", value_parser = non_negative)]
    pub weight_decay: Option<f64>,
    /// Layer-wise learning-rate decay: factor from each layer to the one before it [default: none]
    #[arg(long, value_name = "FACTOR", help_heading = "Optimizer", value_parser = positive)]
    pub layer_decay: Option<f64>,
    /// Minimum learning-rate scale of --layer-decay [default: 0]
    #[arg(long, value_name = "FACTOR", help_heading = "Optimizer", value_parser = probability)]
    pub layer_decay_min_scale: Option<f64>,
    /// Freeze layers whose --layer-decay scale is below this [default: none]
    #[arg(long, value_name = "FACTOR", help_heading = "Optimizer", value_parser = probability)]
    pub layer_decay_no_opt_scale: Option<f64>,

    /// Epochs to train; with --lr-cycle-limit, length of the first cycle
    #[arg(long, value_name = "N", help_heading = "Schedule", value_parser = value_parser!(u32).range(1..))]
    pub epochs: Option<u32>,
    /// Learning-rate scheduler [default: cosine]
    #[arg(long, value_name = "NAME", help_heading = "Schedule")]
    pub sched: Option<Sched>,
    /// Step the scheduler after every update instead of every epoch [default: true, but false for plateau]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Schedule")]
    pub sched_on_updates: Option<bool>,
    /// Epochs of linear learning-rate warmup
    #[arg(long, value_name = "N", help_heading = "Schedule")]
    pub warmup_epochs: Option<u32>,
    /// Learning rate at the start of the warmup [default: 1e-5]
    #[arg(long, value_name = "LR", help_heading = "Schedule", value_parser = non_negative)]
    pub warmup_lr: Option<f64>,
    /// Run the warmup before the schedule instead of during its first epochs
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Schedule")]
    pub warmup_prefix: Option<bool>,
    /// Minimum learning rate: end value of cosine, tanh, poly, wsd and rsqrt, lower bound of plateau [default: 0]
    #[arg(long, value_name = "LR", help_heading = "Schedule", value_parser = non_negative)]
    pub min_lr: Option<f64>,
    /// Cooldown: epochs at --min-lr after cosine, tanh, poly, wsd or rsqrt [default: 0]
    #[arg(long, value_name = "N", help_heading = "Schedule")]
    pub cooldown_epochs: Option<u32>,
    /// Epoch interval of step [default: 0.3 of --epochs]; decay length of wsd and rsqrt, a fraction if below 1 [default: 0.2]
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule", value_parser = positive)]
    pub decay_epochs: Option<f64>,
    /// Decay epochs of multistep; as in timm, each takes effect one epoch early [default: 0.3, 0.6 and 0.9 of --epochs]
    #[arg(long, value_name = "EPOCH", num_args = 1.., help_heading = "Schedule")]
    pub decay_milestones: Option<Vec<u32>>,
    /// Decay factor of step, multistep and plateau, power of poly [default: 0.1]; decay factor of exponential [default: 0.95] (also --dr)
    #[arg(long, value_name = "FACTOR", alias = "dr", help_heading = "Schedule", value_parser = positive)]
    pub decay_rate: Option<f64>,
    /// Patience of plateau: epochs without improvement of --eval-metric [default: 10]
    #[arg(long, value_name = "N", help_heading = "Schedule")]
    pub patience_epochs: Option<u32>,
    /// Learning-rate factor of lambda, a Python expression: "0.95 ** epoch", "1 if epoch < 10 else 0.1"
    #[arg(long, value_name = "EXPRESSION", help_heading = "Schedule")]
    pub lr_lambda: Option<String>,
    /// Decay function of wsd [default: 1-sqrt] and rsqrt [default: linear]
    #[arg(long, value_name = "NAME", help_heading = "Schedule")]
    pub lr_decay_fn: Option<DecayFn>,
    /// Timescale of rsqrt: epochs until the learning rate is --lr / sqrt(2) [default: --warmup-epochs]
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule", value_parser = positive)]
    pub lr_stable_timescale: Option<f64>,
    /// Number of cycles of cosine, tanh and poly [default: 1]
    #[arg(long, value_name = "N", help_heading = "Schedule", value_parser = value_parser!(u32).range(1..))]
    pub lr_cycle_limit: Option<u32>,
    /// Cycle length multiplier [default: 1]
    #[arg(long, value_name = "FACTOR", help_heading = "Schedule", value_parser = positive)]
    pub lr_cycle_mul: Option<f64>,
    /// Peak learning-rate multiplier per cycle [default: 0.5]
    #[arg(long, value_name = "FACTOR", help_heading = "Schedule", value_parser = positive)]
    pub lr_cycle_decay: Option<f64>,
    /// k-decay exponent of cosine and poly; above 1 the learning rate stays high for longer [default: 1]
    #[arg(long, value_name = "K", help_heading = "Schedule", value_parser = positive)]
    pub lr_k_decay: Option<f64>,
    /// Learning-rate noise: start and optional end, as fractions of --epochs [default: none]
    #[arg(long, value_name = "FRACTION", num_args = 1..=2, help_heading = "Schedule", value_parser = probability)]
    pub lr_noise: Option<Vec<f64>>,
    /// Learning-rate noise limit, as a fraction of the learning rate [default: 0.67]
    #[arg(long, value_name = "LIMIT", help_heading = "Schedule", value_parser = positive)]
    pub lr_noise_pct: Option<f64>,
    /// Learning-rate noise standard deviation, as a fraction of the learning rate [default: 1]
    #[arg(long, value_name = "STD", help_heading = "Schedule", value_parser = positive)]
    pub lr_noise_std: Option<f64>,

    /// Gradient clipping threshold [default: no clipping]
    #[arg(long, value_name = "THRESHOLD", help_heading = "Optimizer", value_parser = positive)]
    pub clip_grad: Option<f64>,
    /// Gradient clipping mode [default: norm]
    #[arg(long, value_name = "MODE", help_heading = "Optimizer")]
    pub clip_mode: Option<ClipMode>,
    /// Gradient accumulation steps: batches per update [default: 1]
    #[arg(long, value_name = "N", help_heading = "Optimizer", value_parser = value_parser!(u32).range(1..=4096))]
    pub grad_accum_steps: Option<u32>,

    /// Label smoothing
    #[arg(long, value_name = "S", help_heading = "Loss", value_parser = below_one)]
    pub smoothing: Option<f64>,
    /// Binary cross entropy (BCE) instead of cross entropy; unlike timm, also with --smoothing 0
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Loss")]
    pub bce_loss: Option<bool>,
    /// Sum the BCE loss over classes instead of averaging it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Loss")]
    pub bce_sum: Option<bool>,
    /// Threshold that binarises smoothed or mixed BCE targets [default: none]
    #[arg(long, value_name = "THRESHOLD", help_heading = "Loss", value_parser = below_one)]
    pub bce_target_thresh: Option<f64>,
    /// Positive weight of the BCE loss [default: 1]
    #[arg(long, value_name = "WEIGHT", help_heading = "Loss", value_parser = positive)]
    pub bce_pos_weight: Option<f64>,
    /// Cross entropy with Jensen-Shannon divergence over augmentation splits (not available yet: there are no splits)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Loss")]
    pub jsd_loss: Option<bool>,

    /// Keep an exponential moving average (EMA) of the weights; it is evaluated and saved with the model
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "EMA")]
    pub model_ema: Option<bool>,
    /// EMA decay per update [default: 0.9998]
    #[arg(long, value_name = "D", help_heading = "EMA", value_parser = below_one)]
    pub model_ema_decay: Option<f64>,
    /// Warm up the EMA decay: raise it from 0 over the first updates
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "EMA")]
    pub model_ema_warmup: Option<bool>,
    /// Keep the EMA weights on the CPU while the model trains on another device; they are not evaluated then
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "EMA")]
    pub model_ema_force_cpu: Option<bool>,

    /// Automatic mixed precision (AMP): matmuls and convolutions in half precision; same as --opt-level O1
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Precision")]
    pub amp: Option<bool>,
    /// Half-precision dtype of AMP; float16 uses loss scaling [default: float16]
    #[arg(long, value_name = "DTYPE", help_heading = "Precision")]
    pub amp_dtype: Option<AmpDtype>,
    /// Apex-style optimization level: O0 (f32) to O3 (pure half) [default: O0]
    #[arg(long, value_name = "LEVEL", ignore_case = true, help_heading = "Precision")]
    pub opt_level: Option<OptLevelArg>,
    /// Gradient checkpointing: recompute blocks in the backward pass, for less memory and about a third more compute
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Precision")]
    pub grad_checkpointing: Option<bool>,

    /// Horizontal flip probability
    #[arg(long, value_name = "P", help_heading = "Augmentation", value_parser = probability)]
    pub hflip: Option<f64>,
    /// Maximum random shift along each axis, in pixels
    #[arg(long, value_name = "PIXELS", help_heading = "Augmentation")]
    pub shift: Option<u32>,

    /// Random seed of initial weights, shuffling and augmentation [default: 42]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub seed: Option<u64>,
    /// Metric that selects the best checkpoint [default: top1]
    #[arg(long, value_name = "METRIC", help_heading = "Run")]
    pub eval_metric: Option<EvalMetric>,
    /// Time cuDNN's convolution plans at the first use of a shape and use the fastest; resumed runs use the same [default: on a CUDA device]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Run")]
    pub cudnn_benchmark: Option<bool>,
    /// Use deterministic cuDNN engines only [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Run")]
    pub deterministic: Option<bool>,
}

/// Gradient clipping mode.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClipMode {
    /// Total norm of all gradients
    Norm,
    /// Each gradient element
    Value,
    /// Adaptive gradient clipping: each unit's norm relative to its weights' norm, except in the classifier
    Agc,
}

/// Half-precision dtype, by PyTorch's name.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AmpDtype {
    /// IEEE half precision, with loss scaling
    Float16,
    /// bfloat16: the range of f32 with 8 bits of precision
    Bfloat16,
}

/// Mixed-precision level, by Apex's name.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptLevelArg {
    /// Everything in f32
    #[value(name = "O0")]
    O0,
    /// Matmuls and convolutions in half precision
    #[value(name = "O1")]
    O1,
    /// Everything but batch norm and the loss in half precision
    #[value(name = "O2")]
    O2,
    /// As O2, with weights rounded to half precision after every update
    #[value(name = "O3")]
    O3,
}

impl From<OptLevelArg> for OptLevel {
    fn from(level: OptLevelArg) -> OptLevel {
        match level {
            OptLevelArg::O0 => OptLevel::O0,
            OptLevelArg::O1 => OptLevel::O1,
            OptLevelArg::O2 => OptLevel::O2,
            OptLevelArg::O3 => OptLevel::O3,
        }
    }
}

impl From<OptLevel> for OptLevelArg {
    fn from(level: OptLevel) -> OptLevelArg {
        match level {
            OptLevel::O0 => OptLevelArg::O0,
            OptLevel::O1 => OptLevelArg::O1,
            OptLevel::O2 => OptLevelArg::O2,
            OptLevel::O3 => OptLevelArg::O3,
        }
    }
}

/// Scaling of the base learning rate with the batch size.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrScale {
    /// Proportional to the batch size
    Linear,
    /// Proportional to its square root
    Sqrt,
}

/// Validation metric that ranks checkpoints.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvalMetric {
    /// Top-1 accuracy in percent
    Top1,
    /// Top-5 accuracy in percent
    Top5,
    /// Cross entropy without label smoothing
    Loss,
}

impl EvalMetric {
    /// The metric's value after an epoch.
    pub fn value(self, epoch: &EpochMetrics) -> f64 {
        match self {
            EvalMetric::Top1 => epoch.eval_top1,
            EvalMetric::Top5 => epoch.eval_top5,
            EvalMetric::Loss => epoch.eval_loss,
        }
    }

    /// True if a lower value is better.
    pub fn lower_is_better(self) -> bool {
        self == EvalMetric::Loss
    }
}

impl Settings {
    /// These settings, completed by those of `lower`. A setting of `lower` is dropped if it depends on one that is replaced
    /// here: `lr` on `lr_base`, and the arguments of another optimizer or schedule.
    pub fn over(self, mut lower: Settings) -> Settings {
        if self.lr.is_some() || self.lr_base.is_some() {
            (lower.lr, lower.lr_base, lower.lr_base_size, lower.lr_base_scale) = (None, None, None, None);
        }
        if self.opt.is_some() && self.opt != lower.opt {
            (lower.momentum, lower.opt_betas, lower.opt_eps, lower.opt_kwargs) = (None, None, None, None);
        }
        if self.amp.is_some() || self.opt_level.is_some() {
            (lower.amp, lower.opt_level) = (None, None);
            if self.amp == Some(false) || self.opt_level == Some(OptLevelArg::O0) {
                lower.amp_dtype = None;
            }
        }
        if self.pretrained.is_some() || self.pretrained_path.is_some() || self.initial_checkpoint.is_some() {
            (lower.pretrained, lower.pretrained_path, lower.initial_checkpoint) = (None, None, None);
        }
        if self.warmup_epochs == Some(0) {
            (lower.warmup_lr, lower.warmup_prefix) = (None, None);
        }
        if self.lr_cycle_limit == Some(1) {
            (lower.lr_cycle_mul, lower.lr_cycle_decay) = (None, None);
        }
        if self.bce_loss == Some(false) {
            (lower.bce_sum, lower.bce_target_thresh, lower.bce_pos_weight) = (None, None, None);
        }
        if self.model_ema == Some(false) {
            (lower.model_ema_decay, lower.model_ema_warmup, lower.model_ema_force_cpu) = (None, None, None);
        }
        if let Some(sched) = self.sched {
            lower = lower.filtered(|key| sched.uses(key));
        }
        let mut merged = lower.given();
        merged.extend(self.given());
        Settings::from_map(merged)
    }

    /// The settings whose names (with underscores) satisfy `keep`.
    pub fn filtered(&self, keep: impl Fn(&str) -> bool) -> Settings {
        let mut given = self.given();
        given.retain(|key, _| keep(key));
        Settings::from_map(given)
    }

    fn from_map(given: serde_json::Map<String, serde_json::Value>) -> Settings {
        serde_json::from_value(given.into()).expect("parts of settings are settings")
    }

    /// The settings that are given, as a YAML mapping.
    pub fn to_yaml(&self) -> String {
        // JSON scalars and lists are YAML.
        self.given().iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
    }

    /// The settings that are given, by name (with underscores), in the order of declaration.
    pub fn given(&self) -> serde_json::Map<String, serde_json::Value> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(map)) => {
                map.into_iter().filter(|(_, value)| !value.is_null()).collect()
            }
            other => unreachable!("settings are a map of plain values: {other:?}"),
        }
    }
}

fn number(text: &str, accepts: impl Fn(f64) -> bool, range: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if accepts(value) => Ok(value),
        Ok(_) => Err(format!("must be {range}")),
        Err(_) => Err("must be a number".into()),
    }
}

fn name_value(text: &str) -> Result<String, String> {
    let (_, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not name=value"))?;
    value.parse::<KwargValue>().map(|_| text.to_string())
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |v| v > 0.0 && v.is_finite(), "above 0")
}

fn non_negative(text: &str) -> Result<f64, String> {
    number(text, |v| v >= 0.0 && v.is_finite(), "0 or more")
}

fn pooling(text: &str) -> Result<String, String> {
    match text.parse::<Pooling>()? {
        Pooling::None => Err("the classifier needs pooled features".into()),
        _ => Ok(text.into()),
    }
}

fn below_one(text: &str) -> Result<f64, String> {
    number(text, |v| (0.0..1.0).contains(&v), "at least 0 and below 1")
}

fn probability(text: &str) -> Result<f64, String> {
    number(text, |v| (0.0..=1.0).contains(&v), "between 0 and 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_layer_wins_and_takes_with_it_what_it_replaces() {
        let lower = Settings {
            lr: Some(0.1),
            opt: Some("sgd".parse().expect("a name")),
            momentum: Some(0.8),
            epochs: Some(3),
            opt_betas: None,
            ..Settings::default()
        };
        let higher = Settings { epochs: Some(4), ..Settings::default() };
        let merged = higher.over(lower.clone());
        assert_eq!(merged, Settings { epochs: Some(4), ..lower.clone() });
        let adamw: Option<OptimizerName> = Some("adamw".parse().expect("a name"));
        let merged = Settings { opt: adamw.clone(), ..Settings::default() }.over(lower.clone());
        assert_eq!(merged, Settings { opt: adamw, momentum: None, ..lower.clone() });
        let merged = Settings { lr_base: Some(0.2), ..Settings::default() }.over(lower.clone());
        assert_eq!(merged, Settings { lr: None, lr_base: Some(0.2), ..lower });
    }

    #[test]
    fn numbers_keep_to_their_ranges() {
        assert!(positive("0").is_err() && positive("nan").is_err() && positive("x").is_err());
        assert!(below_one("1").is_err() && below_one("-0.1").is_err());
        assert_eq!((probability("1"), non_negative("0"), positive("2e-5")), (Ok(1.0), Ok(0.0), Ok(2e-5)));
    }
}
