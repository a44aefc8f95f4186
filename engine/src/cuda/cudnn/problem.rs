//! What is asked of cuDNN: one convolution of a training step, and the liberties that its engine may take.
use super::api::unsupported;
use crate::cuda::library::LibraryError;
use crate::{ConvShape, DType};
use cudarc::cudnn::sys::cudnnDataType_t as DataType;
use std::fmt;

/// Which of a convolution's three computations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConvKind {
    /// The output, from input and weight.
    Forward,
    /// The input's gradient, from the output's gradient and the weight.
    DataGradient,
    /// The weight's gradient, from input and the output's gradient.
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

/// What a convolution computes on its way, beside itself; as a graph that cuDNN has one kernel for, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ConvFusion {
    /// The image is read as `max(image * scale + shift, 0)`, with a scale and a shift for each channel, by the forward pass or the
    /// weight's gradient. Padding is 0 after it.
    pub normalize: bool,
    /// The forward pass gives the sum and the sum of squares of each output channel, in f32.
    pub statistics: bool,
}

/// Which engines may be taken, and how one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ConvEngineOptions {
    /// f32 operands may be rounded to TF32 (10 bits of precision) for the tensor cores.
    pub tf32: bool,
    /// Only engines that give the same bits each time.
    pub deterministic: bool,
    /// How the engine is chosen.
    pub choice: ConvPlanChoice,
}

/// How an engine is chosen among those that are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ConvPlanChoice {
    /// cuDNN's heuristics: the first configuration that builds and runs.
    #[default]
    Heuristic,
    /// The fastest of the first `candidates` (PyTorch times 10) whose workspace is at most `workspace` bytes, timed when a
    /// problem is first met.
    Benchmark {
        /// How many are timed.
        candidates: usize,
        /// The most bytes that one may work in.
        workspace: usize,
    },
}

/// One convolution to plan: the key under which its plan is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvProblem {
    /// Which computation.
    pub kind: ConvKind,
    /// Shapes and options of the convolution.
    pub shape: ConvShape,
    /// The storage type of all three tensors: f32, f16 or bf16. Sums are f32.
    pub dtype: DType,
    /// Bytes to which all three tensors are aligned: a power of two, at most 16. Below 16 no tensor core is used.
    pub alignment: usize,
    /// What else is computed.
    pub fusion: ConvFusion,
    /// Liberties.
    pub options: ConvEngineOptions,
}

impl ConvProblem {
    pub(super) fn data_type(&self) -> Result<DataType, LibraryError> {
        data_type(self.dtype).map_err(|_| unsupported(self))
    }

    /// The dtype of scale and shift: f16's precompiled engines take nothing but f16.
    pub fn affine_dtype(dtype: DType) -> DType {
        if dtype == DType::F16 { DType::F16 } else { DType::F32 }
    }

    /// The type of what lies between the operations, in no memory. Run-time-compiled engines want the storage type; the
    /// precompiled ones, f16's with statistics or for the weight's gradient, compute in f32 whatever is said.
    pub(super) fn between_type(&self) -> Result<DataType, LibraryError> {
        let is_precompiled = self.fusion.statistics || self.kind == ConvKind::WeightGradient;
        match self.dtype {
            DType::F16 if is_precompiled => Ok(DataType::CUDNN_DATA_FLOAT),
            _ => self.data_type(),
        }
    }
}

/// cuDNN's name for a dtype that it convolves.
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
            (self.fusion.normalize, "of a normalised image"),
            (self.fusion.statistics, "with statistics"),
            (self.dtype == DType::F32 && !self.options.tf32, "strict f32"),
            (self.options.deterministic, "deterministic"),
        ];
        notes.iter().filter(|(on, _)| *on).try_for_each(|(_, note)| write!(f, ", {note}"))
    }
}
