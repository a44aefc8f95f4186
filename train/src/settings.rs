//! The settings of a training run as a user gives them: on the command line, in a YAML file, or within a checkpoint.
//! All are optional; [`crate::config`] resolves them.
use crate::optim::{Argument, OptimizerName};
use clap::{Args, ValueEnum, value_parser};
use fornax_nn::OptLevel;
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
    /// Label smoothing
    #[arg(long, value_name = "S", help_heading = "Optimizer", value_parser = below_one)]
    pub smoothing: Option<f64>,

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
    /// Learning rate at the end of the cosine [default: 0]
    #[arg(long, value_name = "RATE", help_heading = "Schedule", value_parser = non_negative)]
    pub min_lr: Option<f64>,
    /// Epochs at --min-lr after the cosine [default: 0]
    #[arg(long, value_name = "N", help_heading = "Schedule")]
    pub cooldown_epochs: Option<u32>,
    /// Limit of gradients; what of, --clip-mode says [default: no limit]
    #[arg(long, value_name = "LIMIT", help_heading = "Optimizer", value_parser = positive)]
    pub clip_grad: Option<f64>,
    /// What --clip-grad limits [default: norm]
    #[arg(long, value_name = "MODE", help_heading = "Optimizer")]
    pub clip_mode: Option<ClipMode>,
    /// Batches that one update takes its gradient from [default: 1]
    #[arg(long, value_name = "N", help_heading = "Optimizer", value_parser = value_parser!(u32).range(1..=4096))]
    pub grad_accum_steps: Option<u32>,

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

/// Schedules.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sched {
    /// Half a cosine down to --min-lr
    Cosine,
    /// --lr throughout
    Constant,
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
        if self.sched == Some(Sched::Constant) {
            (lower.min_lr, lower.cooldown_epochs) = (None, None);
        }
        let mut merged = lower.given();
        merged.extend(self.given());
        serde_json::from_value(merged.into()).expect("merged settings are settings")
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
    value.parse::<Argument>().map(|_| text.to_string())
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |v| v > 0.0 && v.is_finite(), "above 0")
}

fn non_negative(text: &str) -> Result<f64, String> {
    number(text, |v| v >= 0.0 && v.is_finite(), "0 or more")
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
