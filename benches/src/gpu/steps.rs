//! Training steps of the trainer: forward, cross entropy, backward, SGD with momentum; reads the loss.
use super::ProblemSize;
use crate::fornax::Sequential;
use crate::networks;
use fornax::data::Batch;
use fornax::optim::{Optimizer, OptimizerOptions, create_optimizer, parameters};
use fornax::train_step::{CudaGraphMode, TrainStep, TrainStepOptions};
use fornax_engine::{DType, Device, GradientRule, LossScaling, Tensor};
use fornax_nn::{OptLevel, Precision, init, move_to};

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
        let batch = Batch { images, target: Tensor::from_vec(target, [shape[0]])? }.to_device(device)?;
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
