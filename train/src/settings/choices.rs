//! Values of settings that are one of a list.
use crate::report::EpochMetrics;
use clap::ValueEnum;
use fornax_engine::{ConvAlgorithm, DType, EraseMode};
use fornax_nn::OptLevel;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Set of default values.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultSet {
    /// Fornax's defaults, some of which depend on the dataset
    #[default]
    Fornax,
    /// Defaults of timm's train.py
    Timm,
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

/// Dtype of a model's weights, by PyTorch's name.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelDtype {
    /// f32
    Float32,
    /// IEEE half precision, with loss scaling
    Float16,
    /// bfloat16
    Bfloat16,
}

impl ModelDtype {
    /// The dtype as one of AMP; `None` for float32.
    pub fn half(self) -> Option<AmpDtype> {
        match self {
            ModelDtype::Float32 => None,
            ModelDtype::Float16 => Some(AmpDtype::Float16),
            ModelDtype::Bfloat16 => Some(AmpDtype::Bfloat16),
        }
    }
}

/// Algorithm of convolutions on the CPU.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConvAlgo {
    /// Winograd for 3x3 convolutions of stride 1 where the shape gains, direct otherwise
    #[default]
    Auto,
    /// Direct
    Direct,
}

impl From<ConvAlgo> for ConvAlgorithm {
    fn from(algo: ConvAlgo) -> ConvAlgorithm {
        match algo {
            ConvAlgo::Auto => ConvAlgorithm::Auto,
            ConvAlgo::Direct => ConvAlgorithm::Direct,
        }
    }
}

/// Image mode, by Pillow's name.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageMode {
    /// Red, green and blue
    #[value(name = "RGB")]
    #[serde(rename = "RGB")]
    Rgb,
    /// Luminance
    #[value(name = "L")]
    L,
}

impl ImageMode {
    /// Number of channels.
    pub fn channels(self) -> usize {
        match self {
            ImageMode::Rgb => 3,
            ImageMode::L => 1,
        }
    }
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

    /// Order of epochs, the better one less: by the metric, and of equals by the validation loss.
    pub fn compare(self, a: &EpochMetrics, b: &EpochMetrics) -> Ordering {
        let by_metric = self.value(a).total_cmp(&self.value(b));
        let by_metric = if self.lower_is_better() { by_metric } else { by_metric.reverse() };
        by_metric.then(a.eval_loss.total_cmp(&b.eval_loss))
    }
}

/// Policy for a non-finite training loss.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NonfinitePolicy {
    /// End the run
    #[default]
    Stop,
    /// Skip the update
    Skip,
    /// Return to the last checkpoint
    Rollback,
}

/// Distribution of the running statistics of batch norm over the ranks.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DistBn {
    /// Each rank keeps its own
    #[value(alias = "")]
    #[serde(alias = "")]
    None,
    /// Those of rank 0
    Broadcast,
    /// Their mean
    #[default]
    Reduce,
}

/// Dtype of gradients between ranks.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GradCompression {
    /// IEEE half precision
    F16,
    /// bfloat16
    Bf16,
}

impl From<GradCompression> for DType {
    fn from(compression: GradCompression) -> DType {
        match compression {
            GradCompression::F16 => DType::F16,
            GradCompression::Bf16 => DType::BF16,
        }
    }
}

/// Content of erased boxes, by timm's name.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EraseModeArg {
    /// Mean colour
    Const,
    /// One random colour per box
    Rand,
    /// A random colour per pixel
    Pixel,
}

impl From<EraseModeArg> for EraseMode {
    fn from(mode: EraseModeArg) -> EraseMode {
        match mode {
            EraseModeArg::Const => EraseMode::Const,
            EraseModeArg::Rand => EraseMode::Rand,
            EraseModeArg::Pixel => EraseMode::Pixel,
        }
    }
}
