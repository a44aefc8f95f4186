//! An operation from outside of the crate as a layer of a model that trains the digits, in a CUDA graph on the emulated device.
#[path = "../../examples/custom_kernel/src/lib.rs"]
mod custom_kernel;

use custom_kernel::ScaleRelu2;
use fornax::data::{DatasetOptions, SampleImage};
use fornax::loader::Batch;
use fornax::optim::{OptimizerOptions, create_optimizer, parameters};
use fornax::train_step::{CudaGraphMode, TrainStep, TrainStepOptions};
use fornax_engine::op::CustomOp;
use fornax_engine::{DType, Device, GlobalPool, GradientRule, Result, Tensor, no_grad};
use fornax_nn::layers::{Conv2d, Linear};
use fornax_nn::loss::CrossEntropy;
use fornax_nn::{Context, Module, OptLevel, Precision, Visitor, init, move_to, named_parameters};
use std::sync::Arc;

/// Convolution, [`ScaleRelu2`], global pooling and a classifier.
struct Model {
    conv: Conv2d,
    scale: Tensor,
    bias: Tensor,
    head: Linear,
}

impl Module for Model {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let features = self.conv.forward(x, cx)?;
        let features = ScaleRelu2.apply(&[&features, &self.scale, &self.bias])?.swap_remove(0);
        self.head.forward(&features.global_pool(GlobalPool::Avg)?, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("conv", &self.conv);
        visitor.parameter("scale", &self.scale);
        visitor.parameter("bias", &self.bias);
        visitor.child("head", &self.head);
    }
}

#[test]
fn custom_layer_trains_the_digits_in_a_cuda_graph() {
    const BATCH: usize = 64;
    let device = Device::emulated(1).expect("g++ is installed");
    let batches = batches(BATCH, 12);
    let [captured, eager] = [CudaGraphMode::Always, CudaGraphMode::Never].map(|cuda_graph| {
        let model = model();
        move_to(&model, &device).expect("memory");
        let rule = GradientRule { scaling: None, clip: None };
        let optimizer =
            create_optimizer("adamw", parameters(&model, 0.0), &OptimizerOptions::default(), rule)
                .expect("memory");
        let options = TrainStepOptions {
            precision: Precision::new(OptLevel::O1, DType::BF16),
            loss: Arc::new(CrossEntropy { smoothing: 0.0 }),
            cuda_graph,
            ..TrainStepOptions::default()
        };
        let mut step = TrainStep::new(options, None, device);
        let mut losses = vec![];
        for batch in batches.iter().cycle().take(if cuda_graph == CudaGraphMode::Always { 240 } else { 8 }) {
            losses.push(step.run(&model, &optimizer, std::slice::from_ref(batch), 0.02).expect("runs"));
            assert_eq!(step.capture_error(), None);
        }
        (model, losses)
    });
    assert_eq!(captured.1[..8], eager.1, "a replayed update has the bits of an eager one");
    let accuracy = accuracy(&captured.0, &batches, &device).expect("runs");
    assert!(accuracy > 0.7, "accuracy {accuracy}, losses {:?}", captured.1);
}

fn model() -> Model {
    let vector = |value| Tensor::full([32], value, DType::F32, &Device::Cpu).expect("memory").variable();
    let model = Model {
        conv: Conv2d::same(1, 32, 3, 1).expect("memory"),
        scale: vector(1.0),
        bias: vector(0.1),
        head: Linear::new(32, 10).expect("memory"),
    };
    let mut rng = init::rng(1, "custom layer");
    for (name, weight) in named_parameters(&model) {
        if name.ends_with("weight") {
            init::normal(&weight, 0.3, &mut rng).expect("memory");
        }
    }
    model
}

/// Batches of the training digits, as floats in 0..1.
fn batches(size: usize, count: usize) -> Vec<Batch> {
    let digits = DatasetOptions::default().open().expect("the included digits").train;
    (0..count)
        .map(|b| {
            let indices = b * size..(b + 1) * size;
            let target: Vec<i64> = indices.clone().map(|i| i64::from(digits.target(i))).collect();
            let pixels: Vec<f32> = indices
                .flat_map(|i| match digits.image(i).expect("an image") {
                    SampleImage::Decoded(image) => {
                        image.pixels.iter().map(|v| f32::from(*v) / 16.0).collect::<Vec<_>>()
                    }
                    _ => unreachable!("the digits are decoded"),
                })
                .collect();
            let images = Tensor::from_vec(pixels, [size, 8, 8, 1]).expect("memory");
            Batch::new(images, Tensor::from_vec(target, [size]).expect("memory"))
        })
        .collect()
}

/// Fraction of the images of these batches that the model classifies correctly.
fn accuracy(model: &Model, batches: &[Batch], device: &Device) -> Result<f64> {
    let (mut correct, mut total) = (0, 0);
    for batch in batches {
        let logits = no_grad(|| model.forward(&batch.images.to_device(device)?, &mut Context::eval()))?;
        let (rows, target) = (logits.to_vec::<f32>()?, batch.target.to_vec::<i64>()?);
        for (row, target) in rows.chunks_exact(10).zip(target) {
            let best = (0..10).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("ten classes");
            correct += usize::from(best as i64 == target);
            total += 1;
        }
    }
    Ok(f64::from(correct as u32) / f64::from(total as u32))
}
