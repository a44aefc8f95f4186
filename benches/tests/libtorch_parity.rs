//! Results and gradients of Fornax and libtorch agree for every row.
#![cfg(feature = "libtorch")]
use fornax_benches::networks::Network;
use fornax_benches::{fornax, libtorch};
use fornax_engine::{DType, Result, Tensor};
use fornax_tests::cases::{self, Case};
use libtorch::{Layout, Operation};

/// Euclidean distance.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

/// Result and gradients of a case in Fornax, and its upstream gradient.
fn differentiate(case: &Case) -> Result<(Vec<Vec<f32>>, Tensor)> {
    let operands = case.tensors(DType::F32)?;
    let y = (case.run)(&operands)?;
    let upstream = case.upstream(&y, DType::F32)?;
    y.backward_from(&upstream)?;
    let gradients = operands.iter().filter_map(Tensor::grad);
    let all: Result<_> = std::iter::once(y.clone()).chain(gradients).map(|t| t.to_vec::<f32>()).collect();
    Ok((all?, upstream))
}

#[test]
fn operations_match_libtorch() {
    for case in cases::all().iter().filter(|case| case.large) {
        let (ours, upstream) = differentiate(case).unwrap_or_else(|error| panic!("{}: {error}", case.name()));
        for layout in [Layout::ChannelsLast, Layout::ChannelsFirst] {
            // tch's elu has no alpha argument, and libtorch has no fused expressions.
            if case.name() == "activate/elu-large" || ["fuse", "batch_norm_fused"].contains(&case.op) {
                continue;
            }
            let Some(operation) = Operation::new(case, layout) else {
                panic!("{} has no counterpart in libtorch", case.name())
            };
            let theirs = operation.differentiate(&upstream);
            assert_eq!(ours.len(), theirs.len(), "{}: result and gradients", case.name());
            for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                let size = distance(theirs, &vec![0.0; theirs.len()]);
                let error = distance(ours, theirs);
                assert!(error <= 1e-4 * size, "{} {layout:?} {i}: off by {error} of {size}", case.name());
            }
        }
    }
}

/// Loss of the first step, and the parameters after it.
type StepResult = (f64, Vec<Vec<f32>>);

/// Runs a step on both sides from the same parameters. In a deep network, rounding switches some ReLUs, so the tolerance is derived from
/// the difference between libtorch's two layouts.
fn compare(network: Network, dtype: DType, loss_tolerance: f64) {
    let mut ours = fornax::TrainingStep::new(network, dtype);
    let values = |step: &fornax::TrainingStep| -> Vec<Vec<f32>> {
        step.parameters().iter().map(|t| t.to_vec().expect("parameters are f32")).collect()
    };
    let start = values(&ours);
    let libtorch = |layout| -> StepResult {
        let mut theirs = libtorch::TrainingStep::new(network, layout, dtype);
        let (images, target) = ours.batch();
        theirs.copy_from(&start, &images.to_vec().expect("f32"), &target.to_vec().expect("i64"));
        (theirs.run(), theirs.parameters())
    };
    let (last, first) = (libtorch(Layout::ChannelsLast), libtorch(Layout::ChannelsFirst));
    let loss = ours.run();
    let ours: StepResult = (loss, values(&ours));

    let error = (ours.0 - last.0).abs() / last.0;
    assert!(error < loss_tolerance, "{network:?}: loss {} in Fornax, {} in libtorch", ours.0, last.0);
    for (i, start) in start.iter().enumerate() {
        let (error, between) = (distance(&ours.1[i], &last.1[i]), distance(&first.1[i], &last.1[i]));
        let allowed = 2.0 * between + 0.01 * distance(start, &last.1[i]) + 1e-6;
        assert!(error <= allowed, "{network:?}, parameter {i}: off by {error}, and libtorch by {between}");
    }
}

#[test]
fn small_cnn_step_matches_libtorch() {
    compare(Network::SmallCnn, DType::F32, 1e-4);
}

#[test]
fn resnet18_cifar_step_matches_libtorch() {
    compare(Network::Resnet18Cifar, DType::F32, 1e-4);
}

#[test]
fn resnet18_step_matches_libtorch() {
    compare(Network::Resnet18, DType::F32, 1e-4);
}

#[test]
fn resnet50d_step_matches_libtorch() {
    compare(Network::Resnet50d, DType::F32, 1e-4);
}

#[test]
fn mobilenetv2_step_matches_libtorch() {
    compare(Network::MobileNetV2, DType::F32, 1e-4);
}

#[test]
fn small_cnn_step_in_bf16_matches_libtorch() {
    compare(Network::SmallCnn, DType::BF16, 1e-3);
}

#[test]
fn resnet18_cifar_step_in_bf16_matches_libtorch() {
    compare(Network::Resnet18Cifar, DType::BF16, 1e-3);
}
