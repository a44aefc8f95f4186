//! Description of a convolution for cuDNN, with constraints on its engine.
use super::api::unsupported;
use crate::cuda::library::LibraryError;
use crate::{ConvShape, DType};
use cudarc::cudnn::sys::cudnnDataType_t as DataType;
use std::fmt;

/// Kind of a convolution's computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConvKind {
    /// Output, from input and weight.
    Forward,
    /// Gradient of the input (dgrad), from the output's gradient and the weight.
    DataGradient,
    /// Gradient of the weight (wgrad), from the input and the output's gradient.
    WeightGradient,
}

impl ConvKind {
    /// All three, in the order of a training step.
    pub const ALL: [ConvKind; 3] = [ConvKind::Forward, ConvKind::DataGradient, ConvKind::WeightGradient];
}

impl fmt::Display for ConvKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ConvKind::Forward => "forward",
            ConvKind::DataGradient => "data gradient",
            ConvKind::WeightGradient => "weight gradient",
        })
    }
}

/// Operations fused with a convolution; cuDNN may or may not have a kernel for the resulting graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ConvFusion {
    /// Forward and weight gradient: the input is replaced by `max(input * scale + shift, 0)`, with a scale and a shift per channel; padding
    /// is 0 after that.
    pub normalize: bool,
    /// Forward: also compute the f32 sum and sum of squares of each output channel.
    pub statistics: bool,
    /// Data gradient: add to the contents of the input's gradient (beta = 1).
    pub accumulate: bool,
}

/// Constraints on engines, and how one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ConvEngineOptions {
    /// Allow rounding of f32 operands to TF32 (10 mantissa bits) for tensor cores.
    pub tf32: bool,
    /// Only deterministic engines: the same bits each time.
    pub deterministic: bool,
    /// Choice between the allowed engines.
    pub choice: ConvPlanChoice,
}

/// Choice between the allowed engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ConvPlanChoice {
    /// cuDNN's heuristics: the first configuration that builds and runs.
    #[default]
    Heuristic,
    /// The fastest of the first `candidates` whose workspace is at most `workspace` bytes, timed at the first use of a problem, as with
    /// PyTorch's `cudnn.benchmark` (10 candidates).
    Benchmark {
        /// Number of configurations to time.
        candidates: usize,
        /// Maximum workspace in bytes.
        workspace: usize,
    },
}

/// Convolution to plan; the key of its plan in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvProblem {
    /// Kind of computation.
    pub kind: ConvKind,
    /// Shape of the convolution.
    pub shape: ConvShape,
    /// Dtype of all three tensors: f32, f16 or bf16. Sums are f32.
    pub dtype: DType,
    /// Alignment of all three tensors in bytes: a power of two, at most 16. Tensor cores are only used with 16.
    pub alignment: usize,
    /// Fused operations.
    pub fusion: ConvFusion,
    /// Constraints on the engine.
    pub options: ConvEngineOptions,
}

impl ConvProblem {
    pub(super) fn data_type(&self) -> Result<DataType, LibraryError> {
        data_type(self.dtype).map_err(|_| unsupported(self))
    }

    /// Dtype of scale and shift: f16 for f16, whose precompiled engines accept nothing else; f32 for all others.
    pub fn affine_dtype(dtype: DType) -> DType {
        if dtype == DType::F16 { DType::F16 } else { DType::F32 }
    }

    /// Type of virtual tensors: the storage type, which run-time-compiled engines require, or f32, in which the precompiled engines (for
    /// f16 with statistics or for the weight gradient) compute.
    pub(super) fn virtual_type(&self) -> Result<DataType, LibraryError> {
        let is_precompiled = self.fusion.statistics || self.kind == ConvKind::WeightGradient;
        match self.dtype {
            DType::F16 if is_precompiled => Ok(DataType::CUDNN_DATA_FLOAT),
            _ => self.data_type(),
        }
    }
}

/// cuDNN's data type of a dtype.
pub(super) fn data_type(dtype: DType) -> Result<DataType, LibraryError> {
    match dtype {
        DType::F32 => Ok(DataType::CUDNN_DATA_FLOAT),
        DType::F16 => Ok(DataType::CUDNN_DATA_HALF),
        DType::BF16 => Ok(DataType::CUDNN_DATA_BFLOAT16),
        _ => Err(unsupported(dtype)),
    }
}

impl fmt::Display for ConvProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, [kh, kw]) = (&self.shape, self.shape.kernel);
        write!(f, "convolution {} of {} [{}, {}, {}, {}]", self.kind, self.dtype, s.n, s.h, s.w, s.c_in)?;
        write!(f, " by weight [{}, {kh}, {kw}, {}]", s.c_out, s.group_in())?;
        write!(f, " with stride {:?}, padding {:?}, dilation {:?}", s.stride, s.padding, s.dilation)?;
        write!(f, ", groups {}", s.groups)?;
        let notes = [
            (self.fusion.normalize, "normalized input"),
            (self.fusion.statistics, "with statistics"),
            (self.fusion.accumulate, "accumulated"),
            (self.dtype == DType::F32 && !self.options.tf32, "strict f32"),
            (self.options.deterministic, "deterministic"),
        ];
        notes.iter().filter(|(on, _)| *on).try_for_each(|(_, note)| write!(f, ", {note}"))
    }
}
