//! EMA of a model: captured and replayed, eager, on the device and on the CPU.
use fornax::ema::{Ema, EmaOptions, EmaWarmup};
use fornax::loader::Batch;
use fornax::optim::{OptimizerOptions, create_optimizer, parameters};
use fornax::train_step::{CudaGraphMode, TrainStep, TrainStepOptions};
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{DType, Device, GradientRule, Tensor, no_grad};
use fornax_nn::loss::{BinaryCrossEntropy, Loss};
use fornax_nn::models::Model;
use fornax_nn::{
    Context, ModelOptions, Module, OptLevel, Precision, create_model, move_to, state_dict, state_entries,
};
use std::sync::Arc;

const LOSS: BinaryCrossEntropy = BinaryCrossEntropy {
    smoothing: 0.1,
    target_threshold: Some(0.2),
    sum_classes: true,
    pos_weight: Some(2.0),
};

fn model() -> Box<dyn Model> {
    create_model("resnet8", &ModelOptions { seed: 1, ..ModelOptions::classes(5) }).expect("a model")
}

fn batch(seed: u64) -> Batch {
    let mut rng = RngStream::new(RngKey::new(seed, "images"), 0, 0);
    let target = Tensor::from_vec((0..6).map(|_| i64::from(rng.below(5))).collect(), [6]).expect("memory");
    let pixels: Vec<f32> = (0..6 * 8 * 8 * 3).map(|_| rng.normal()).collect();
    let images = Tensor::from_vec(pixels, [6, 8, 8, 3]).expect("memory");
    Batch::new(images, LOSS.prepare(&target, 5).expect("rows"))
}

fn precision() -> Precision {
    Precision::new(OptLevel::O1, DType::BF16)
}

fn logits(model: &dyn Module, device: &Device) -> Vec<f32> {
    let x = batch(99).images.to_device(device).expect("memory");
    let mut cx = Context::eval().with_precision(precision());
    let y = no_grad(|| model.forward(&x, &mut cx)).expect("a pass");
    y.to_dtype(DType::F32).and_then(|y| y.to_vec::<f32>()).expect("f32")
}

/// Every element of the EMA weights after eight updates, and the EMA model's logits after four and after eight.
fn run(graph: CudaGraphMode, on_cpu: bool) -> (Vec<f32>, Vec<Vec<f32>>) {
    let device = Device::emulated(1).expect("g++ is installed");
    let model = model();
    move_to(&*model, &device).expect("memory");
    let options = OptimizerOptions::default();
    let optimizer = create_optimizer("sgd", parameters(&*model, 1e-2), &options, GradientRule::default());
    let optimizer = optimizer.expect("an optimizer");
    let options = EmaOptions { decay: 0.8, warmup: Some(EmaWarmup::default()), ..EmaOptions::default() };
    let ema_device = if on_cpu { Device::Cpu } else { device };
    let ema = Ema::new(&*model, self::model(), options, ema_device).expect("the same architecture");
    let how = TrainStepOptions {
        precision: precision(),
        loss: Arc::new(LOSS),
        cuda_graph: graph,
        ..TrainStepOptions::default()
    };
    let mut step = TrainStep::new(how, None, device).with_ema(Some(ema));
    let mut logits_at = vec![];
    for update in 1..=8 {
        let ema = step.ema_mut().expect("an EMA");
        ema.set_decay(options.decay_at(update)).expect("a copy");
        step.run(&*model, &optimizer, &[batch(update)], 0.05).expect("runs");
        assert_eq!(step.capture_error(), None);
        if update % 4 == 0 {
            logits_at.push(logits(step.ema().expect("an EMA").model(), &ema_device));
        }
    }
    let ema_model = step.ema().expect("an EMA").model();
    let fresh = self::model();
    let state = state_dict::state_dict(ema_model).expect("a state").into_iter().collect();
    state_dict::load_state_dict(&*fresh, &state).expect("loads");
    move_to(&*fresh, &ema_device).expect("memory");
    assert_eq!(
        logits_at[1],
        logits(&*fresh, &ema_device),
        "low-precision copies of the EMA weights are out of date"
    );
    assert_ne!(logits_at[0], logits_at[1]);
    let counter = state_entries(ema_model).into_iter().find(|e| e.name.ends_with("num_batches_tracked"));
    assert_eq!(counter.expect("batch norm counts").tensor.to_vec::<i64>().expect("i64"), [8]);
    let floats = state_entries(ema_model).into_iter().filter(|e| e.tensor.dtype() == DType::F32);
    (floats.flat_map(|e| e.tensor.to_vec::<f32>().expect("f32")).collect(), logits_at)
}

#[test]
fn ema_is_equal_replayed_eager_and_on_cpu() {
    let (replayed, eager, beside) = (
        run(CudaGraphMode::Always, false),
        run(CudaGraphMode::Never, false),
        run(CudaGraphMode::Always, true),
    );
    assert!(replayed == eager, "the replayed EMA differs");
    for (a, b) in replayed.0.iter().zip(&beside.0) {
        // The CPU may round once where the device rounds twice.
        assert!((a - b).abs() <= 1e-6 * (1.0 + a.abs()), "{a}, {b}");
    }
}

#[test]
fn ema_of_another_architecture_is_rejected() {
    let other = create_model("resnet18", &ModelOptions::classes(5)).expect("a model");
    assert!(Ema::new(&*model(), other, EmaOptions::default(), Device::Cpu).is_err());
}
