//! AdaHessian: second-order updates, which differentiate the backward pass.
mod common;

use common::{run, stderr, succeed};
use fornax::loader::Batch;
use fornax::optim::adahessian::rademacher;
use fornax::optim::{KwargValue, Optimizer, OptimizerOptions, Parameter, create_optimizer, parameters};
use fornax::train_step::{CudaGraphMode, TrainStep, TrainStepOptions};
use fornax_engine::{DType, Device, GradientRule, Tensor};
use fornax_nn::{Context, ModelOptions, create_model, move_to};
use serde_json::Value;

fn optimizer(parameters: Vec<Parameter>, extra: &[(&str, KwargValue)]) -> Optimizer {
    let extra = extra.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    let options = OptimizerOptions { kwargs: extra, ..OptimizerOptions::default() };
    create_optimizer("adahessian", parameters, &options, GradientRule::default()).expect("an optimizer")
}

fn values(t: &Tensor) -> Vec<f32> {
    t.to_device(&Device::Cpu).and_then(|t| t.to_vec()).expect("f32")
}

/// A weight `[2, 1, 2, 1]`, coefficients `c` and an optimizer for the loss `sum(c w^4)`, whose Hessian is diagonal.
fn bowl(extra: &[(&str, KwargValue)]) -> (Tensor, Tensor, Optimizer) {
    let w = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 3.0], [2, 1, 2, 1]).expect("fits").variable();
    let c = Tensor::from_slice(&[1.0f32, -1.0, 4.0, 0.5], [2, 1, 2, 1]).expect("fits");
    let optimizer = optimizer(vec![Parameter::new("w", w.clone())], extra);
    (w, c, optimizer)
}

fn loss(w: &Tensor, c: &Tensor) -> Tensor {
    w.square().and_then(|w| w.square()?.mul(c)?.sum_all()).expect("computes")
}

#[test]
fn diagonal_hessian_is_estimated_exactly_and_accumulates_over_batches() {
    for samples in [1.0, 3.0] {
        let (w, c, optimizer) = bowl(&[("n_samples", KwargValue::Number(samples))]);
        let expected = [12.0f32, -48.0, 12.0, 54.0];
        for batches in [1, 2] {
            optimizer.zero_grad();
            (0..batches).for_each(|_| optimizer.backward(&loss(&w, &c)).expect("differentiates"));
            let factor = batches as f32;
            assert_eq!(values(&w.grad().expect("a gradient")), [4.0, 32.0, 2.0, 54.0].map(|g| g * factor));
            let got = values(&optimizer.hessian_diagonals()[0]);
            let near = got.iter().zip(expected).all(|(g, e)| (g - e * factor).abs() < 1e-4);
            assert!(near, "{batches} batches: {got:?}");
        }
    }
}

#[test]
fn estimate_is_reused_and_averaged_over_kernels() {
    let (w, c, optimizer) = bowl(&[("update_each", KwargValue::Number(2.0))]);
    let mut seen = vec![];
    for _ in 0..3 {
        optimizer.zero_grad();
        optimizer.backward(&loss(&w, &c)).expect("differentiates");
        seen.push(values(&optimizer.hessian_diagonals()[0]));
        optimizer.update(0.01).expect("updates");
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[1], seen[2]);

    let (w, c, optimizer) = bowl(&[("avg_conv_kernel", KwargValue::Bool(true))]);
    optimizer.backward(&loss(&w, &c)).expect("differentiates");
    optimizer.update(0.01).expect("updates");
    assert_eq!(values(&optimizer.hessian_diagonals()[0]), [30.0, 30.0, 33.0, 33.0]);
}

#[test]
fn rademacher_vectors_depend_on_name_and_sample_index() {
    let like = Tensor::zeros([1000], DType::F32, &Device::Cpu).expect("memory");
    let of = |name: &str, sample: u64| values(&rademacher(name, sample, &like).expect("memory"));
    let (a, sum) = (of("a", 0), of("a", 0).iter().sum::<f32>());
    assert!(a.iter().all(|z| z.abs() == 1.0) && sum.abs() < 100.0, "{sum}");
    assert_eq!(a, of("a", 0));
    for other in [of("a", 1), of("b", 0)] {
        let product: f32 = a.iter().zip(other).map(|(a, b)| a * b).sum();
        assert!(product.abs() < 100.0, "{product}");
    }
}

/// Gradients and estimates of a network with batch norm.
fn backward(device: Device) -> Vec<(String, Vec<f32>, Vec<f32>)> {
    let small = ModelOptions { num_classes: 5, in_chans: 3, seed: 1, ..ModelOptions::default() };
    let model = create_model("resnet8", &small).expect("a model");
    move_to(&*model, &device).expect("memory");
    let parameters = parameters(&*model, 0.0);
    let optimizer = optimizer(parameters.clone(), &[]);
    let pixels: Vec<f32> = (0..4 * 8 * 8 * 3).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let images = Tensor::from_vec(pixels, [4, 8, 8, 3]).and_then(|t| t.to_device(&device)).expect("memory");
    let target = Tensor::from_slice(&[0i64, 3, 4, 1], [4]).and_then(|t| t.to_device(&device));
    let logits = model.forward(&images, &mut Context::train()).expect("computes");
    let loss = logits.cross_entropy(&target.expect("memory"), 0.1).expect("computes");
    optimizer.backward(&loss).expect("differentiates");
    let each = parameters.iter().zip(optimizer.hessian_diagonals());
    each.map(|(p, h)| (p.name.clone(), values(&p.tensor.grad().expect("a gradient")), values(h))).collect()
}

#[test]
fn device_estimate_matches_cpu_and_capture_is_rejected() {
    let device = Device::emulated(1).expect("g++ is installed");
    let off = |got: &[f32], expected: &[f32]| {
        let largest = expected.iter().fold(1e-3f32, |m, e| m.max(e.abs()));
        got.iter().zip(expected).map(|(g, e)| (g - e).abs() / largest).fold(0.0f32, f32::max)
    };
    for ((name, g, h), (_, cpu_g, cpu_h)) in backward(device).iter().zip(&backward(Device::Cpu)) {
        assert!(off(g, cpu_g) < 1e-3, "gradient of {name}: {}", off(g, cpu_g));
        assert!(off(h, cpu_h) < 1e-2, "estimate of {name}: {}", off(h, cpu_h));
    }

    let small = ModelOptions { num_classes: 5, in_chans: 3, seed: 1, ..ModelOptions::default() };
    let model = create_model("resnet8", &small).expect("a model");
    move_to(&*model, &device).expect("memory");
    let optimizer = optimizer(parameters(&*model, 0.0), &[]);
    let images = Tensor::ones([2, 8, 8, 3], DType::F32, &Device::Cpu).expect("memory");
    let batch = Batch::new(images, Tensor::from_slice(&[1i64, 2], [2]).expect("memory"));
    let step = |graph| {
        TrainStep::new(TrainStepOptions { cuda_graph: graph, ..TrainStepOptions::default() }, None, device)
    };
    let error =
        step(CudaGraphMode::Always).run(&*model, &optimizer, &[batch], 0.1).expect_err("cannot be captured");
    assert!(error.to_string().contains("differentiates the backward pass"), "{error}");
}

#[test]
fn adahessian_trains_digits() {
    let folder = tempfile::tempdir().expect("a folder");
    let digits = "train --device cpu --progress none --output out --json --opt adahessian --epochs 8";
    let text = succeed(folder.path(), digits);
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    let top1 = last["top1"].as_f64().expect("a number");
    assert!(top1 >= 95.0, "{top1}");
}

#[test]
fn resume_matches_uninterrupted_run_with_any_number_of_threads() {
    let folder = tempfile::tempdir().expect("a folder");
    let digits = "train --device cpu --progress none --output out --batch-size 128 --sched constant --warmup-epochs 0 \
                  --print-hash --opt adahessian --opt-kwargs update_each=3";
    let hash = |flags: &str| {
        let text = succeed(folder.path(), &format!("{digits} {flags}"));
        text.lines().last().expect("a line").to_string()
    };
    let whole = hash("--epochs 2 --experiment whole --threads 2");
    hash("--epochs 1 --experiment parts --threads 1");
    let resumed = hash("--epochs 2 --experiment parts --resume auto --threads 1");
    assert_eq!(whole, resumed);
}

#[test]
fn unsupported_options_are_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    for (flags, part) in [
        ("--amp", "does not train in f16"),
        ("--opt-kwargs update_each=0", "whole number"),
        ("--opt-kwargs hessian_power=2", "not in 0..=1"),
        ("--device emulated:1 --cuda-graph", "differentiates the backward pass"),
    ] {
        let output = run(folder.path(), &format!("train --epochs 1 --opt adahessian --output out {flags}"));
        assert_eq!(output.status.code(), Some(2), "{flags}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{flags}: {}", stderr(&output));
    }
}
