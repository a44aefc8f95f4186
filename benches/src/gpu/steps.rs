//! Training steps of the trainer: forward, cross entropy, backward, SGD with momentum; reads the loss.
use super::{ProblemSize, median};
use crate::fornax::Sequential;
use crate::networks;
use fornax::loader::Batch;
use fornax::optim::{Optimizer, OptimizerOptions, create_optimizer, parameters};
use fornax::train_step::{CudaGraphMode, TrainStep, TrainStepOptions};
use fornax_engine::cuda::cudnn::{ConvEngineOptions, ConvPlanChoice};
use fornax_engine::cuda::{conv_plan_record, set_conv_engine_options};
use fornax_engine::{DType, Device, GradientRule, LossScaling, Tensor};
use fornax_nn::{OptLevel, Precision, init, move_to};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How a training step is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepVariant {
    /// Every kernel is launched by the host.
    Eager,
    /// One CUDA graph, with the convolution plans of cuDNN's heuristics.
    Graph,
    /// One CUDA graph, with the fastest convolution plans of a benchmark.
    Benchmark,
}

impl StepVariant {
    /// All variants.
    pub const ALL: [StepVariant; 3] = [StepVariant::Eager, StepVariant::Graph, StepVariant::Benchmark];

    /// Name in result lines.
    pub fn name(self) -> &'static str {
        match self {
            StepVariant::Eager => "eager",
            StepVariant::Graph => "graph",
            StepVariant::Benchmark => "benchmark",
        }
    }
}

/// Timing of a training step.
pub struct MeasuredStep {
    /// Seconds per step, the median over rounds.
    pub seconds: f64,
    /// Number of images in the batch.
    pub images: usize,
    /// Losses of the first steps.
    pub losses: Vec<f64>,
}

/// Time between reports of chosen plans.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Number of steps whose losses are compared between variants; the second captures the graph.
const COMPARED_STEPS: usize = 5;

/// Measures a training step, at optimization level O1 with this half-precision dtype, or in f32.
pub fn measure_step(
    network: networks::Network,
    half: Option<DType>,
    variant: StepVariant,
    device: &Device,
    size: ProblemSize,
) -> Result<MeasuredStep, fornax::Error> {
    let (graph, plans) = match variant {
        StepVariant::Eager => (CudaGraphMode::Never, ConvPlanChoice::Heuristic),
        StepVariant::Graph => (CudaGraphMode::Always, ConvPlanChoice::Heuristic),
        StepVariant::Benchmark => (CudaGraphMode::Always, ConvPlanChoice::Benchmark(size.conv_benchmark())),
    };
    set_conv_engine_options(device, ConvEngineOptions { tf32: false, deterministic: true, choice: plans })?;
    let mut step = TrainingStep::new(network, half, graph, device, size)?;
    let mut losses = vec![reporting_plans(device, || step.run())?];
    for _ in 1..size.pick(COMPARED_STEPS, 3) {
        losses.push(step.run()?);
    }
    let runs = size.pick(20, 1);
    let mut rounds = vec![];
    for _ in 0..size.pick(5, 1) {
        let started = Instant::now();
        for _ in 0..runs {
            step.run()?;
        }
        rounds.push(started.elapsed().as_secs_f64() / runs as f64);
    }
    Ok(MeasuredStep { seconds: median(rounds), images: step.images(), losses })
}

/// Runs `work` and prints meanwhile how many convolution plans are chosen: timing all of a network takes minutes, in which a runner would
/// take a silent program for a hung one.
fn reporting_plans<T>(device: &Device, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        scope.spawn(move || {
            let mut before = 0;
            while is_done.recv_timeout(REPORT_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let record = conv_plan_record(device).ok().flatten();
                let chosen = record.map_or(0, |record| record.choices.len());
                if chosen > before {
                    println!("{chosen} convolution plans are chosen");
                }
                before = chosen;
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// Network, optimizer and batch on a device.
pub struct TrainingStep {
    network: Sequential,
    optimizer: Optimizer,
    step: TrainStep,
    batch: Batch,
}

impl TrainingStep {
    /// Builds the network, at optimization level O1 with this half-precision dtype, or in f32.
    pub fn new(
        network: networks::Network,
        half: Option<DType>,
        graph: CudaGraphMode,
        device: &Device,
        size: ProblemSize,
    ) -> Result<TrainingStep, fornax::Error> {
        let built = Sequential::new(&network.layers());
        move_to(&built, device)?;
        let precision = half.map_or(Precision::default(), |half| Precision::new(OptLevel::O1, half));
        let scaling = precision.needs_loss_scaling().then(LossScaling::default);
        let gradients = GradientRule { scaling, clip: None };
        let options = OptimizerOptions::default();
        let optimizer = create_optimizer("momentum", parameters(&built, 1e-4), &options, gradients)?;
        let [n, h, w, c] = network.input();
        let shape = [size.pick(n, 2), size.pick(h, 32), size.pick(w, 32), c];
        let images = Tensor::zeros(shape, DType::F32, &Device::Cpu)?;
        init::normal(&images, 1.0, &mut init::rng(0, "images"))?;
        let target: Vec<i64> = (0..shape[0]).map(|i| (i * 7919 % network.classes()) as i64).collect();
        let batch = Batch::new(images, Tensor::from_vec(target, [shape[0]])?).to_device(device)?;
        let step = TrainStep::new(
            TrainStepOptions { precision, cuda_graph: graph, ..TrainStepOptions::default() },
            None,
            *device,
        );
        Ok(TrainingStep { network: built, optimizer, step, batch })
    }

    /// Number of images in the batch.
    pub fn images(&self) -> usize {
        self.batch.target.numel()
    }

    /// Runs a step and returns the loss.
    pub fn run(&mut self) -> Result<f64, fornax::Error> {
        let batch = std::slice::from_ref(&self.batch);
        self.step.run(&self.network, &self.optimizer, batch, networks::LEARNING_RATE)
    }
}
