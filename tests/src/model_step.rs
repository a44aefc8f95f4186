//! Training steps of a registered model as the trainer runs them: u8 batches, which the step prepares on the device. Traffic tests count and
//! the GPU rows time the same steps.
use fornax::data::ChannelStats;
use fornax::distributed::{DataParallel, DistributedRun};
use fornax::loader::Batch;
use fornax::optim::{Optimizer, OptimizerOptions, create_optimizer, parameters};
use fornax::train_step::{CudaGraphMode, TrainStep, TrainStepOptions};
use fornax_engine::{Device, GradientRule, LossScaling, Tensor};
use fornax_nn::{Model, ModelOptions, Precision, create_model, move_to};

/// Learning rate of the steps; small, so that parameters and activations keep realistic values.
const LEARNING_RATE: f64 = 1e-3;

/// Number of classes of the model.
const CLASSES: usize = 1000;

/// Model, optimizer (SGD with momentum and weight decay) and training step on a device.
pub struct ModelStep {
    model: Box<dyn Model>,
    optimizer: Optimizer,
    step: TrainStep,
    device: Device,
}

impl ModelStep {
    /// Creates the model with initial weights.
    pub fn new(
        name: &str,
        precision: Precision,
        cuda_graph: CudaGraphMode,
        device: Device,
    ) -> Result<ModelStep, fornax::Error> {
        let options = TrainStepOptions { precision, cuda_graph, ..TrainStepOptions::default() };
        ModelStep::of_rank(name, options, None, device)
    }

    /// Creates the model with initial weights on one of several ranks; those of `averaged` average their gradients.
    pub fn of_rank(
        name: &str,
        options: TrainStepOptions,
        averaged: Option<&DistributedRun>,
        device: Device,
    ) -> Result<ModelStep, fornax::Error> {
        let model = create_model(name, &ModelOptions::default())?;
        move_to(&*model, &device)?;
        // Untrained weights would overflow at the usual initial scale, and the update would be skipped.
        let scaling = LossScaling { init_scale: 1.0, ..LossScaling::default() };
        let gradients =
            GradientRule { scaling: options.precision.needs_loss_scaling().then_some(scaling), clip: None };
        let rule = OptimizerOptions::default();
        let optimizer = create_optimizer("momentum", parameters(&*model, 1e-4), &rule, gradients)?;
        let data_parallel = averaged.map(|run| {
            let named = optimizer.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
            DataParallel::new(run.group.clone(), run.collective.clone(), named, None)
        });
        let statistics = ChannelStats { white: 255, mean: vec![0.5; 3], std: vec![0.25; 3] };
        let step = TrainStep::new(options, Some(statistics.into()), device);
        let step = step.with_data_parallel(data_parallel.transpose()?);
        Ok(ModelStep { model, optimizer, step, device })
    }

    /// Batch of u8 images `[images, side, side, 3]` on the device.
    pub fn batch(&self, images: usize, side: usize) -> Result<Batch, fornax::Error> {
        let bytes = (0..images * side * side * 3).map(|i| (i * 7919 % 251) as u8).collect();
        let target: Vec<i64> = (0..images).map(|i| (i * 7919 % CLASSES) as i64).collect();
        let images_u8 = Tensor::from_vec(bytes, [images, side, side, 3])?;
        Batch::new(images_u8, Tensor::from_vec(target, [images])?).to_device(&self.device)
    }

    /// Runs an update and returns its loss.
    pub fn run(&mut self, batch: &Batch) -> Result<f64, fornax::Error> {
        self.step.run(&*self.model, &self.optimizer, std::slice::from_ref(batch), LEARNING_RATE)
    }
    /// Parameters of the model.
    pub fn parameters(&self) -> Vec<Tensor> {
        self.optimizer.parameters().iter().map(|p| p.tensor.clone()).collect()
    }
}
