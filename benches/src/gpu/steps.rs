//! ResNet-50 training steps as the trainer runs them: eager, as a CUDA graph, with benchmarked convolution plans, and without fusions of
//! cuDNN.
use super::{ProblemSize, median};
use fornax::loader::Batch;
use fornax::train_step::CudaGraphMode;
use fornax_engine::cuda::cudnn::{ConvBenchmark, ConvEngineOptions, ConvPlanChoice};
use fornax_engine::cuda::set_conv_engine_options;
use fornax_engine::{DType, Device};
use fornax_nn::{OptLevel, Precision};
use fornax_tests::model_step::ModelStep;
use std::time::Instant;

/// How a training step is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepVariant {
    /// Every kernel is launched by the host.
    Eager,
    /// One CUDA graph, with the convolution plans of cuDNN's heuristics.
    Graph,
    /// One CUDA graph, with the fastest convolution plans of a benchmark.
    Benchmark,
    /// The same, without operations fused with a convolution.
    Unfused,
}

impl StepVariant {
    /// All variants.
    pub const ALL: [StepVariant; 4] =
        [StepVariant::Eager, StepVariant::Graph, StepVariant::Benchmark, StepVariant::Unfused];

    /// Name in result lines.
    pub fn name(self) -> &'static str {
        match self {
            StepVariant::Eager => "eager",
            StepVariant::Graph => "graph",
            StepVariant::Benchmark => "benchmark",
            StepVariant::Unfused => "unfused",
        }
    }

    fn plans(self, size: ProblemSize) -> ConvPlanChoice {
        match self {
            StepVariant::Eager | StepVariant::Graph => ConvPlanChoice::Heuristic,
            StepVariant::Benchmark => ConvPlanChoice::Benchmark(size.conv_benchmark()),
            StepVariant::Unfused => {
                ConvPlanChoice::Benchmark(ConvBenchmark { fused_candidates: 0, ..size.conv_benchmark() })
            }
        }
    }
}

/// Row of a training step: a model and its precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRow {
    /// Name of the model.
    pub model: &'static str,
    /// Half-precision dtype of optimization level O1; `None` for f32.
    pub half: Option<DType>,
    /// Number of images in the batch.
    pub images: usize,
    /// Height and width of the images.
    pub side: usize,
}

impl StepRow {
    /// The rows, in f16, bf16 and f32. ResNet-50 takes minutes on the emulated device; the smoke size has ResNet-18.
    pub fn all(size: ProblemSize) -> [StepRow; 3] {
        let (model, images, side) = match size {
            ProblemSize::Full => ("resnet50", 256, 224),
            ProblemSize::Smoke => ("resnet18", 2, 64),
        };
        [Some(DType::F16), Some(DType::BF16), None].map(|half| StepRow { model, half, images, side })
    }

    /// Name in result lines.
    pub fn name(&self) -> String {
        format!("step/{}/{}", self.model, self.half.unwrap_or(DType::F32))
    }

    /// Creates the step with initial weights, and its batch.
    pub fn create(&self, graph: CudaGraphMode, device: &Device) -> Result<(ModelStep, Batch), fornax::Error> {
        let precision = self.half.map_or(Precision::default(), |half| Precision::new(OptLevel::O1, half));
        let step = ModelStep::new(self.model, precision, graph, *device)?;
        let batch = step.batch(self.images, self.side)?;
        Ok((step, batch))
    }
}

/// Timing of a training step.
pub struct MeasuredStep {
    /// Seconds per step, the median over rounds.
    pub seconds: f64,
    /// Losses of the first steps.
    pub losses: Vec<f64>,
}

/// Number of steps whose losses are compared between variants; the second captures the graph.
const COMPARED_STEPS: usize = 5;

/// Measures a training step.
pub fn measure_step(
    row: &StepRow,
    variant: StepVariant,
    device: &Device,
    size: ProblemSize,
) -> Result<MeasuredStep, fornax::Error> {
    let graph = if variant == StepVariant::Eager { CudaGraphMode::Never } else { CudaGraphMode::Always };
    let options = ConvEngineOptions { tf32: false, deterministic: true, choice: variant.plans(size) };
    set_conv_engine_options(device, options)?;
    let (mut step, batch) = row.create(graph, device)?;
    let mut losses = vec![];
    for _ in 0..size.pick(COMPARED_STEPS, 3) {
        losses.push(step.run(&batch)?);
    }
    let runs = size.pick(20, 1);
    let mut rounds = vec![];
    for _ in 0..size.pick(5, 1) {
        let started = Instant::now();
        for _ in 0..runs {
            step.run(&batch)?;
        }
        rounds.push(started.elapsed().as_secs_f64() / runs as f64);
    }
    Ok(MeasuredStep { seconds: median(rounds), losses })
}
