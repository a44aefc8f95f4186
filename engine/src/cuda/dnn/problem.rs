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

/// Which engines may be taken, and how one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct ConvOptions {
    /// f32 operands may be rounded to TF32 (10 bits of precision) for the tensor cores.
    pub tf32: bool,
    /// Only engines that give the same bits each time.
    pub deterministic: bool,
    /// How the engine is chosen.
    pub choice: PlanChoice,
}

/// How an engine is chosen among those that are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PlanChoice {
    /// cuDNN's heuristics: the first configuration that builds and runs.
    #[default]
    Heuristic,
    /// The fastest of the first `candidates` (PyTorch times 10) whose workspace is at most `workspace` bytes, timed when a
    /// problem is first met.
    Timed {
        /// How many are timed.
        candidates: usize,
        /// The most bytes that one may work in.
        workspace: usize,
    },
}

/// One convolution to plan: the key under which its plan is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Which computation.
    pub kind: ConvKind,
    /// Shapes and options of the convolution.
    pub shape: ConvShape,
    /// The storage type of all three tensors: f32, f16 or bf16. Sums are f32.
    pub dtype: DType,
    /// Bytes to which all three tensors are aligned: a power of two, at most 16. Below 16 no tensor core is used.
    pub alignment: usize,
    /// Liberties.
    pub options: ConvOptions,
}

impl Problem {
    pub(super) fn data_type(&self) -> Result<DataType, LibraryError> {
        match self.dtype {
            DType::F32 => Ok(DataType::CUDNN_DATA_FLOAT),
            DType::F16 => Ok(DataType::CUDNN_DATA_HALF),
            DType::BF16 => Ok(DataType::CUDNN_DATA_BFLOAT16),
            _ => Err(unsupported(self)),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, [kh, kw]) = (&self.shape, self.shape.kernel);
        write!(f, "convolution {} of {} [{}, {}, {}, {}]", self.kind, self.dtype, s.n, s.h, s.w, s.c_in)?;
        write!(f, " by weight [{}, {kh}, {kw}, {}]", s.c_out, s.group_in())?;
        write!(f, " with stride {:?}, padding {:?}, dilation {:?}", s.stride, s.padding, s.dilation)?;
        write!(f, ", groups {}", s.groups)?;
        let notes = [
            (self.dtype == DType::F32 && !self.options.tf32, "strict f32"),
            (self.options.deterministic, "deterministic"),
        ];
        notes.iter().filter(|(on, _)| *on).try_for_each(|(_, note)| write!(f, ", {note}"))
    }
}
