//! Training steps: forward, cross entropy, backward, SGD with momentum, the loss read, as the trainer does them.
use super::Scale;
use crate::fornax::Network;
use crate::networks;
use fornax::data::Batch;
use fornax::optim::{Optimizer, OptimizerOptions, create_optimizer, parameters};
use fornax::train_step::{CudaGraphMode, TrainStep, TrainStepOptions};
use fornax_engine::{DType, Device, GradientRule, LossScaling, Tensor};
use fornax_nn::{OptLevel, Precision, init, move_to};

/// A network in training on a device.
pub struct TrainingStep {
    network: Network,
    optimizer: Optimizer,
    step: TrainStep,
    batch: Batch,
}

impl TrainingStep {
    /// The network at level O1 in a half precision, or in f32.
    pub fn new(
        network: networks::Network,
        half: Option<DType>,
        graph: CudaGraphMode,
        device: &Device,
        scale: Scale,
    ) -> Result<TrainingStep, fornax::Error> {
        let built = Network::new(&network.layers());
        move_to(&built, device)?;
        let precision = half.map_or(Precision::default(), |half| Precision::new(OptLevel::O1, half));
        let scaling = precision.needs_loss_scaling().then(LossScaling::default);
        let gradients = GradientRule { scaling, clip: None };
        let options = OptimizerOptions::default();
        let optimizer = create_optimizer("momentum", parameters(&built, 1e-4), &options, gradients)?;
        let [n, h, w, c] = network.input();
        let shape = [scale.of(n, 2), scale.of(h, 32), scale.of(w, 32), c];
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

    /// Images in a batch.
    pub fn images(&self) -> usize {
        self.batch.target.numel()
    }

    /// One step; its loss.
    pub fn run(&mut self) -> Result<f64, fornax::Error> {
        let batch = std::slice::from_ref(&self.batch);
        self.step.run(&self.network, &self.optimizer, batch, networks::LEARNING_RATE)
    }
}
