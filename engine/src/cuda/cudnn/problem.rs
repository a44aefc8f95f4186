//! Description of a convolution for cuDNN, with constraints on its engine.
use crate::{ConvShape, DType};
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
    /// Forward: also compute the f32 sum and sum of squares of each output channel.
    pub statistics: bool,
    /// Data gradient: add to the contents of the input's gradient (beta = 1). With `statistics`, also the mask and the backward sums of
    /// the batch norm before: Fornax's own kernel.
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
    /// cuDNN's heuristics: the first configuration that builds and runs. A fusion is timed once against separate operations, and not used
    /// where it is slower.
    #[default]
    Heuristic,
    /// The choice that timing has made so far, or that was restored; the heuristics for other problems. Nothing is timed.
    Stored,
    /// The fastest, timed at the first use of a problem, as with PyTorch's `cudnn.benchmark`. A fusion is also timed against separate
    /// operations, and not used where it is slower.
    Benchmark(ConvBenchmark),
}

/// Options of [`ConvPlanChoice::Benchmark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvBenchmark {
    /// Maximum number of plans to time, in the order of cuDNN's heuristics.
    pub candidates: usize,
    /// Maximum number of plans of a fusion to time. cuDNN compiles most of them, for up to a second each. 0: fuse
    /// nothing with a convolution.
    pub fused_candidates: usize,
    /// Maximum workspace of a plan in bytes.
    pub workspace: usize,
    /// Use and store choices in Fornax's cache folder, by GPU, version of cuDNN and problem.
    pub disk_cache: bool,
}

impl Default for ConvBenchmark {
    /// 10 candidates, as in PyTorch, 4 of a fusion, 1 GiB, with the cache.
    fn default() -> ConvBenchmark {
        ConvBenchmark { candidates: 10, fused_candidates: 4, workspace: 1 << 30, disk_cache: true }
    }
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

impl fmt::Display for ConvProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, [kh, kw]) = (&self.shape, self.shape.kernel);
        write!(f, "convolution {} of {} [{}, {}, {}, {}]", self.kind, self.dtype, s.n, s.h, s.w, s.c_in)?;
        write!(f, " by weight [{}, {kh}, {kw}, {}]", s.c_out, s.group_in())?;
        write!(f, " with stride {:?}, padding {:?}, dilation {:?}", s.stride, s.padding, s.dilation)?;
        write!(f, ", groups {}", s.groups)?;
        let notes = [
            (self.fusion.statistics, "with statistics"),
            (self.fusion.accumulate, "accumulated"),
            (self.dtype == DType::F32 && !self.options.tf32, "strict f32"),
            (self.options.deterministic, "deterministic"),
        ];
        notes.iter().filter(|(on, _)| *on).try_for_each(|(_, note)| write!(f, ", {note}"))
    }
}
