//! Every loss trains the digits through the library, including losses of soft targets and of augmentation splits.
use fornax::augment::{TrainCropMode, TransformOptions};
use fornax::data::{Dataset, DatasetOptions};
use fornax::loader::{Batch, Loader, LoaderOptions};
use fornax::optim::{OptimizerOptions, create_optimizer, parameters};
use fornax::train_step::{TrainStep, TrainStepOptions};
use fornax_engine::{DType, Device, GradientRule, Tensor, no_grad};
use fornax_nn::loss::{
    BinaryCrossEntropy, CrossEntropy, JsdCrossEntropy, Loss, WeightedLoss, mixup_target, top_k_correct,
};
use fornax_nn::{Context, ModelOptions, create_model};
use std::sync::Arc;

const SEED: u64 = 3;
const EPOCHS: u32 = 8;

/// Trains with a loss on the loader's batches, transformed by `change`; returns top-1 accuracy in percent.
fn train(loss: Arc<dyn Loss>, change: impl Fn(Batch) -> Batch) -> f64 {
    let data = DatasetOptions::default().open().expect("the included digits");
    let statistics = data.statistics.expect("known");
    let loader = |dataset: &Arc<dyn Dataset>, training, batch_size| {
        let transform = TransformOptions {
            size: [8, 8],
            train_crop_mode: TrainCropMode::Shift,
            shift: u32::from(training),
            hflip: 0.0,
            color_jitter: vec![],
            mean: vec![0.0],
            ..TransformOptions::default()
        };
        let options =
            LoaderOptions { training, batch_size, channels: 1, seed: SEED, ..LoaderOptions::default() };
        let transform = Arc::new(transform.train_transform().expect("valid options"));
        Loader::new(dataset.clone(), transform, options).expect("valid options")
    };
    let train = loader(&data.train, true, 32);
    let options = ModelOptions { num_classes: 10, in_chans: 1, seed: SEED, ..ModelOptions::default() };
    let model = create_model("resnet8", &options).expect("builds");
    let optimizer = create_optimizer(
        "adamw",
        parameters(&*model, 0.05),
        &OptimizerOptions::default(),
        GradientRule::default(),
    )
    .expect("an optimizer");
    let options = TrainStepOptions { loss, ..TrainStepOptions::default() };
    let mut step = TrainStep::new(options, Some(statistics.clone().into()), Device::Cpu);
    for epoch in 0..EPOCHS {
        let lr = 3e-3 * (1.0 - f64::from(epoch) / f64::from(EPOCHS));
        for batch in train.epoch(epoch, 0).expect("starts") {
            let batch = change(batch.expect("a batch"));
            step.run(&*model, &optimizer, &[batch], lr).expect("runs");
        }
    }
    let validation = loader(&data.validation.expect("a split"), false, 1000).batch(0, 0).expect("a batch");
    let images = statistics.normalise(&validation.images, DType::F32).expect("bytes");
    let logits = no_grad(|| model.forward(&images, &mut Context::eval())).expect("runs");
    let right = top_k_correct(&logits, &validation.target, 1).expect("counts");
    100.0 * right as f64 / validation.target.numel() as f64
}

#[track_caller]
fn assert_trains(loss: impl Loss + 'static, change: impl Fn(Batch) -> Batch) {
    let name = format!("{loss:?}");
    let top1 = train(Arc::new(loss), change);
    assert!(top1 >= 95.0, "{name}: {top1}");
}

fn as_it_is(batch: Batch) -> Batch {
    batch
}

#[test]
fn losses_of_class_indices_train_digits() {
    assert_trains(CrossEntropy::default(), as_it_is);
    assert_trains(CrossEntropy { smoothing: 0.1 }, as_it_is);
    assert_trains(BinaryCrossEntropy::default(), as_it_is);
    let sum: Arc<dyn Loss> = Arc::new(CrossEntropy { smoothing: 0.1 });
    let terms = vec![(0.5, sum), (2.0, Arc::new(BinaryCrossEntropy::default()) as Arc<dyn Loss>)];
    assert_trains(WeightedLoss::new(terms).expect("finite"), as_it_is);
}

/// Targets are class probabilities, as produced by mixup.
#[test]
fn losses_of_soft_targets_train_digits() {
    let rows = |batch: Batch| {
        let target = mixup_target(&batch.target, 10, 1.0, 0.1).expect("rows");
        Batch { target, ..batch }
    };
    assert_trains(CrossEntropy::default(), rows);
    assert_trains(BinaryCrossEntropy::default(), rows);
}

/// Two splits: the images, and the same images darkened.
#[test]
fn jsd_loss_of_two_splits_trains_digits() {
    let splits = |batch: Batch| {
        let dim: Vec<u8> = batch.images.to_vec::<u8>().expect("bytes").iter().map(|v| v - v / 4).collect();
        let dim = Tensor::from_vec(dim, *batch.images.shape()).expect("the same shape");
        Batch::new(
            Tensor::cat(&[&batch.images, &dim], 0).expect("the same shapes"),
            Tensor::cat(&[&batch.target, &batch.target], 0).expect("the same shapes"),
        )
    };
    assert_trains(JsdCrossEntropy { num_splits: 2, alpha: 12.0, smoothing: 0.1 }, splits);
}
