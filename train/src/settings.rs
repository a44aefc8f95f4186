//! The settings of a training run as a user gives them: on the command line, in a YAML file, or within a checkpoint.
//! All are optional; [`crate::config`] resolves them.
use crate::optim::{KwargValue, OptimizerName};
use crate::report::EpochMetrics;
use crate::schedule::{DecayFn, Sched};
use clap::{Args, ValueEnum, value_parser};
use fornax_nn::OptLevel;
use fornax_nn::models::Pooling;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a user can say about a run's data, model and training.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Data set; `fornax datasets` lists them [default: digits]
    #[arg(long, value_name = "NAME", help_heading = "Dataset")]
    pub dataset: Option<String>,
    /// Folder that holds the data set's files
    #[arg(long, value_name = "DIR", help_heading = "Dataset")]
    pub data_dir: Option<PathBuf>,
    /// Images in a training batch
    #[arg(long, short = 'b', value_name = "N", help_heading = "Dataset", value_parser = value_parser!(u32).range(1..))]
    pub batch_size: Option<u32>,
    /// Images in a validation batch (also -vb) [default: 256]
    #[arg(long, value_name = "N", help_heading = "Dataset", value_parser = value_parser!(u32).range(1..))]
    pub validation_batch_size: Option<u32>,

    /// Model; `fornax models` lists them
    #[arg(long, value_name = "NAME", help_heading = "Model")]
    pub model: Option<String>,
    /// Start from the model's published weights, from the hub or its cache; the head is fresh where the classes differ
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Model")]
    pub pretrained: Option<bool>,
    /// The same from other weights: a safetensors file, a folder that holds one, or hf-hub:ORGANISATION/NAME
    #[arg(long, value_name = "SOURCE", help_heading = "Model")]
    pub pretrained_path: Option<String>,
    /// Start from the weights in this file or folder, all of which must fit
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub initial_checkpoint: Option<PathBuf>,

    /// Probability of dropout before the classifier [default: 0]
    #[arg(long, value_name = "P", help_heading = "Model", value_parser = below_one)]
    pub drop: Option<f64>,
    /// Stochastic depth: probability of dropping the last block, less for those before [default: 0]
    #[arg(long, value_name = "P", help_heading = "Model", value_parser = below_one)]
    pub drop_path: Option<f64>,
    /// Share of the last maps that DropBlock drops; ResNets have it [default: 0]
    #[arg(long, value_name = "P", help_heading = "Model", value_parser = below_one)]
    pub drop_block: Option<f64>,
    /// Share of a batch in batch norm's running statistics [default: the model's own]
    #[arg(long, value_name = "M", help_heading = "Model", value_parser = positive)]
    pub bn_momentum: Option<f64>,
    /// What batch norm adds to the variance [default: the model's own]
    #[arg(long, value_name = "EPS", help_heading = "Model", value_parser = positive)]
    pub bn_eps: Option<f64>,
    /// Batch norm as in TensorFlow: momentum 0.01, eps 1e-3
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Model")]
    pub bn_tf: Option<bool>,
    /// How feature maps become vectors: avg, max, avgmax, catavgmax; token for transformers [default: the model's own]
    #[arg(long, value_name = "NAME", help_heading = "Model", value_parser = pooling)]
    pub gp: Option<String>,
    /// Factor of the classifier's first weights and biases [default: 1]
    #[arg(long, value_name = "FACTOR", help_heading = "Model", value_parser = non_negative)]
    pub head_init_scale: Option<f64>,
    /// First value of the classifier's biases [default: the model's own]
    #[arg(long, value_name = "VALUE", help_heading = "Model", allow_negative_numbers = true)]
    pub head_init_bias: Option<f64>,

    /// Optimizer, under timm's name; any may have lookahead_ before it [default: sgd]
    #[arg(long, value_name = "NAME", help_heading = "Optimizer")]
    pub opt: Option<OptimizerName>,
    /// Learning rate at its peak
    #[arg(long, value_name = "RATE", help_heading = "Optimizer", value_parser = positive)]
    pub lr: Option<f64>,
    /// Learning rate for --lr-base-size images a batch, instead of --lr
    #[arg(long, value_name = "RATE", help_heading = "Optimizer", value_parser = positive)]
    pub lr_base: Option<f64>,
    /// Batch size that --lr-base is for [default: 256]
    #[arg(long, value_name = "N", help_heading = "Optimizer", value_parser = value_parser!(u32).range(1..))]
    pub lr_base_size: Option<u32>,
    /// How --lr-base grows with the batch [default: sqrt for adamw, linear otherwise]
    #[arg(long, value_name = "RULE", help_heading = "Optimizer")]
    pub lr_base_scale: Option<LrScale>,
    /// Momentum of an optimizer that has it [default: 0.9]
    #[arg(long, value_name = "M", help_heading = "Optimizer", value_parser = below_one)]
    pub momentum: Option<f64>,
    /// Decay rates of the moments of an optimizer that has them [default: the optimizer's, 0.9 0.999 for most]
    #[arg(long, value_name = "B", num_args = 2..=3, help_heading = "Optimizer", value_parser = below_one)]
    pub opt_betas: Option<Vec<f64>>,
    /// What an optimizer adds to its denominator [default: the optimizer's, 1e-8 for most]
    #[arg(long, value_name = "EPS", help_heading = "Optimizer", value_parser = positive)]
    pub opt_eps: Option<f64>,
    /// Other arguments of the optimizer, as name=value
    #[arg(long, value_name = "NAME=VALUE", num_args = 1.., help_heading = "Optimizer", value_parser = keyword)]
    pub opt_kwargs: Option<Vec<String>>,
    /// Weight decay; one-dimensional parameters and biases have none
    #[arg(long, value_name = "WD", help_heading = "Optimizer", value_parser = non_negative)]
    pub weight_decay: Option<f64>,
    /// Factor of the learning rate from each layer to the one before it [default: none]
    #[arg(long, value_name = "FACTOR", help_heading = "Optimizer", value_parser = positive)]
    pub layer_decay: Option<f64>,
    /// The least factor that --layer-decay comes to [default: 0]
    #[arg(long, value_name = "FACTOR", help_heading = "Optimizer", value_parser = probability)]
    pub layer_decay_min_scale: Option<f64>,
    /// Layers with a factor below this are not trained [default: all are]
    #[arg(long, value_name = "FACTOR", help_heading = "Optimizer", value_parser = probability)]
    pub layer_decay_no_opt_scale: Option<f64>,

    /// Epochs of the schedule
    #[arg(long, value_name = "N", help_heading = "Schedule", value_parser = value_parser!(u32).range(1..))]
    pub epochs: Option<u32>,
    /// Shape of the learning rate over time [default: cosine]
    #[arg(long, value_name = "NAME", help_heading = "Schedule")]
    pub sched: Option<Sched>,
    /// Change the learning rate after every update, rather than every epoch [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Schedule")]
    pub sched_on_updates: Option<bool>,
    /// Epochs of linear warm-up
    #[arg(long, value_name = "N", help_heading = "Schedule")]
    pub warmup_epochs: Option<u32>,
    /// Learning rate at the start of the warm-up [default: 1e-5]
    #[arg(long, value_name = "RATE", help_heading = "Schedule", value_parser = non_negative)]
    pub warmup_lr: Option<f64>,
    /// Warm up before the schedule, rather than during its first epochs
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Schedule")]
    pub warmup_prefix: Option<bool>,
    /// Learning rate at the end of cosine, tanh, poly, wsd and rsqrt; the least that plateau falls to [default: 0]
    #[arg(long, value_name = "RATE", help_heading = "Schedule", value_parser = non_negative)]
    pub min_lr: Option<f64>,
    /// Epochs at --min-lr after cosine, tanh, poly, wsd or rsqrt [default: 0]
    #[arg(long, value_name = "N", help_heading = "Schedule")]
    pub cooldown_epochs: Option<u32>,
    /// Interval of step [default: 0.3 of the epochs]; length of the decay of wsd and rsqrt, below 1 as a share [default: 0.2]
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule", value_parser = positive)]
    pub decay_epochs: Option<f64>,
    /// Epochs of multistep, each of which takes effect one earlier, as in timm [default: 0.3, 0.6 and 0.9 of the epochs]
    #[arg(long, value_name = "EPOCH", num_args = 1.., help_heading = "Schedule")]
    pub decay_milestones: Option<Vec<u32>>,
    /// Factor of step, multistep and plateau, exponent of poly [default: 0.1]; factor of exponential [default: 0.95] (also --dr)
    #[arg(long, value_name = "RATE", alias = "dr", help_heading = "Schedule", value_parser = positive)]
    pub decay_rate: Option<f64>,
    /// Epochs without improvement of --eval-metric that plateau puts up with [default: 10]
    #[arg(long, value_name = "N", help_heading = "Schedule")]
    pub patience_epochs: Option<u32>,
    /// Formula of lambda, in the notation of Python: "0.95 ** epoch", "1 if epoch < 10 else 0.1"
    #[arg(long, value_name = "FORMULA", help_heading = "Schedule")]
    pub lr_lambda: Option<String>,
    /// Decay of wsd [default: 1-sqrt] and rsqrt [default: linear]
    #[arg(long, value_name = "NAME", help_heading = "Schedule")]
    pub lr_decay_fn: Option<DecayFn>,
    /// Epochs in which rsqrt falls to 0.71 of --lr [default: those of the warm-up]
    #[arg(long, value_name = "EPOCHS", help_heading = "Schedule", value_parser = positive)]
    pub lr_stable_timescale: Option<f64>,
    /// Cycles of cosine, tanh and poly [default: 1]
    #[arg(long, value_name = "N", help_heading = "Schedule", value_parser = value_parser!(u32).range(1..))]
    pub lr_cycle_limit: Option<u32>,
    /// How many times as long each cycle is as the one before [default: 1]
    #[arg(long, value_name = "FACTOR", help_heading = "Schedule", value_parser = positive)]
    pub lr_cycle_mul: Option<f64>,
    /// Factor of the peak from cycle to cycle [default: 0.5]
    #[arg(long, value_name = "FACTOR", help_heading = "Schedule", value_parser = positive)]
    pub lr_cycle_decay: Option<f64>,
    /// Exponent of the time in cosine and poly; above 1 the rate stays high for longer [default: 1]
    #[arg(long, value_name = "K", help_heading = "Schedule", value_parser = positive)]
    pub lr_k_decay: Option<f64>,
    /// Where random factors of the rate begin, and where they end, as shares of the epochs [default: none]
    #[arg(long, value_name = "SHARE", num_args = 1..=2, help_heading = "Schedule", value_parser = probability)]
    pub lr_noise: Option<Vec<f64>>,
    /// Largest deviation of such a factor from 1 [default: 0.67]
    #[arg(long, value_name = "LIMIT", help_heading = "Schedule", value_parser = positive)]
    pub lr_noise_pct: Option<f64>,
    /// Standard deviation of such a factor, before the limit [default: 1]
    #[arg(long, value_name = "STD", help_heading = "Schedule", value_parser = positive)]
    pub lr_noise_std: Option<f64>,

    /// Limit of gradients; what of, --clip-mode says [default: no limit]
    #[arg(long, value_name = "LIMIT", help_heading = "Optimizer", value_parser = positive)]
    pub clip_grad: Option<f64>,
    /// What --clip-grad limits [default: norm]
    #[arg(long, value_name = "MODE", help_heading = "Optimizer")]
    pub clip_mode: Option<ClipMode>,
    /// Batches that one update takes its gradient from [default: 1]
    #[arg(long, value_name = "N", help_heading = "Optimizer", value_parser = value_parser!(u32).range(1..=4096))]
    pub grad_accum_steps: Option<u32>,

    /// Label smoothing
    #[arg(long, value_name = "S", help_heading = "Loss", value_parser = below_one)]
    pub smoothing: Option<f64>,
    /// Binary cross entropy, every class by itself, instead of cross entropy; with --smoothing 0 too, unlike in timm
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Loss")]
    pub bce_loss: Option<bool>,
    /// Sum the binary cross entropy over classes, rather than average it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Loss")]
    pub bce_sum: Option<bool>,
    /// Take smoothed or mixed labels above this for 1 and all others for 0 [default: take them as they are]
    #[arg(long, value_name = "LABEL", help_heading = "Loss", value_parser = below_one)]
    pub bce_target_thresh: Option<f64>,
    /// Weight of the class that is there against each that is not [default: 1]
    #[arg(long, value_name = "WEIGHT", help_heading = "Loss", value_parser = positive)]
    pub bce_pos_weight: Option<f64>,
    /// Cross entropy with a Jensen-Shannon term over augmentation splits
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Loss")]
    pub jsd_loss: Option<bool>,

    /// Follow the model by an exponential moving average, which is judged and saved beside it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Model average")]
    pub model_ema: Option<bool>,
    /// What stays of the average in an update [default: 0.9998]
    #[arg(long, value_name = "D", help_heading = "Model average", value_parser = below_one)]
    pub model_ema_decay: Option<f64>,
    /// Let the decay rise from 0 over the first updates
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Model average")]
    pub model_ema_warmup: Option<bool>,
    /// Keep the average in the processor's memory, while the model is on another device; it is not judged then
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Model average")]
    pub model_ema_force_cpu: Option<bool>,

    /// Mixed precision: products in half precision, the rest in f32; the same as --opt-level O1
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Precision")]
    pub amp: Option<bool>,
    /// Half precision [default: float16]
    #[arg(long, value_name = "DTYPE", help_heading = "Precision")]
    pub amp_dtype: Option<AmpDtype>,
    /// How much is computed in half precision [default: O0]
    #[arg(long, value_name = "LEVEL", ignore_case = true, help_heading = "Precision")]
    pub opt_level: Option<Level>,
    /// Compute each block again in the backward pass, rather than keep what it needs: less memory, a third more work
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Precision")]
    pub grad_checkpointing: Option<bool>,

    /// Probability of a horizontal flip
    #[arg(long, value_name = "P", help_heading = "Augmentation", value_parser = probability)]
    pub hflip: Option<f64>,
    /// Largest random shift along each axis, in pixels
    #[arg(long, value_name = "PIXELS", help_heading = "Augmentation")]
    pub shift: Option<u32>,

    /// Seed of initial weights, order and augmentation [default: 42]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub seed: Option<u64>,
    /// What the best checkpoint is best at [default: top1]
    #[arg(long, value_name = "METRIC", help_heading = "Run")]
    pub eval_metric: Option<Metric>,
}

/// What gradients are limited by.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClipMode {
    /// The norm of all gradients together
    Norm,
    /// Each element
    Value,
    /// Each unit's norm, relative to that of its weights; not the classifier's
    Agc,
}

/// Half precisions, under PyTorch's names.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AmpDtype {
    /// IEEE half precision, with loss scaling
    Float16,
    /// The range of f32 with 8 bits of precision
    Bfloat16,
}

/// Levels of mixed precision, under Apex's names.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// Everything in f32
    #[value(name = "O0")]
    O0,
    /// Products in half precision
    #[value(name = "O1")]
    O1,
    /// All but batch norm's statistics and the loss
    #[value(name = "O2")]
    O2,
    /// As O2, and weights are kept in half precision only
    #[value(name = "O3")]
    O3,
}

impl From<Level> for OptLevel {
    fn from(level: Level) -> OptLevel {
        match level {
            Level::O0 => OptLevel::O0,
            Level::O1 => OptLevel::O1,
            Level::O2 => OptLevel::O2,
            Level::O3 => OptLevel::O3,
        }
    }
}

impl From<OptLevel> for Level {
    fn from(level: OptLevel) -> Level {
        match level {
            OptLevel::O0 => Level::O0,
            OptLevel::O1 => Level::O1,
            OptLevel::O2 => Level::O2,
            OptLevel::O3 => Level::O3,
        }
    }
}

/// How a learning rate grows with the batch size.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LrScale {
    /// In proportion
    Linear,
    /// With the square root
    Sqrt,
}

/// Metrics that rank checkpoints.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Share of images whose class is the first guess, in percent
    Top1,
    /// Share of images whose class is among the first five guesses, in percent
    Top5,
    /// Cross entropy without smoothing
    Loss,
}

impl Metric {
    /// Its value after an epoch.
    pub fn of(self, epoch: &EpochMetrics) -> f64 {
        match self {
            Metric::Top1 => epoch.eval_top1,
            Metric::Top5 => epoch.eval_top5,
            Metric::Loss => epoch.eval_loss,
        }
    }

    /// Whether less of it is better.
    pub fn lower_is_better(self) -> bool {
        self == Metric::Loss
    }
}

impl Settings {
    /// These settings, and `lower`'s where these say nothing. What only made sense beside a setting of `lower` that is
    /// replaced here goes with it: `lr` with `lr_base`, and what another optimizer or schedule does not have.
    pub fn over(self, mut lower: Settings) -> Settings {
        if self.lr.is_some() || self.lr_base.is_some() {
            (lower.lr, lower.lr_base, lower.lr_base_size, lower.lr_base_scale) = (None, None, None, None);
        }
        if self.opt.is_some() && self.opt != lower.opt {
            (lower.momentum, lower.opt_betas, lower.opt_eps, lower.opt_kwargs) = (None, None, None, None);
        }
        if self.amp.is_some() || self.opt_level.is_some() {
            (lower.amp, lower.opt_level) = (None, None);
            if self.amp == Some(false) || self.opt_level == Some(Level::O0) {
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
            lower = lower.keeping(|key| sched.uses(key));
        }
        let mut merged = lower.given();
        merged.extend(self.given());
        Settings::of(merged)
    }

    /// Those whose name (with underscores) is kept.
    pub fn keeping(&self, keep: impl Fn(&str) -> bool) -> Settings {
        let mut given = self.given();
        given.retain(|key, _| keep(key));
        Settings::of(given)
    }

    fn of(given: serde_json::Map<String, serde_json::Value>) -> Settings {
        serde_json::from_value(given.into()).expect("parts of settings are settings")
    }

    /// The settings that say something, as a YAML mapping.
    pub fn to_yaml(&self) -> String {
        // JSON scalars and lists are YAML.
        self.given().iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
    }

    /// The settings that say something, by name (with underscores), in the order of the help text.
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

fn keyword(text: &str) -> Result<String, String> {
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
        Pooling::None => Err("a classifier needs vectors".into()),
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
