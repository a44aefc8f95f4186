//! Batch, group, layer and RMS norm.
use super::{DeviceArray, FLOATS, gpu};
use crate::ops::batch_norm::cuda::{
    self as batch_norm, BackwardFactors, BatchNormBackward, BatchNormParameters, DerivativeSource,
    PassBefore, RunningMomentum, SAVED_ROWS, mask_bytes,
};
use crate::ops::elementwise::cpu::activation;
use crate::ops::norm::cpu::{GroupNorm, RowNorm};
use crate::ops::norm::cuda::{group_norm, row_norm};
use crate::{Activation, DType};
use fornax_kernels::emulator;

/// Rows and channels: with and without packs, in one tile and several, in one chunk, several, and several groups of chunks.
const ROWS: [(usize, usize); 6] = [(9, 8), (700, 3), (65, 24), (130, 300), (5, 1), (36_000, 8)];

const ACTIVATIONS: [Activation; 5] =
    [Activation::Identity, Activation::Relu, Activation::Relu6, Activation::Silu, Activation::HardSwish];

/// d = dy * f'(z), by the CPU's activation.
fn activation_gradient(f: Activation, z: &[f64], dy: &[f64]) -> Vec<f64> {
    let mut d = vec![0.0; z.len()];
    activation::backward(f, z, dy, &mut d);
    d
}

#[test]
fn batch_norm_training_matches_the_definition() {
    for dtype in FLOATS {
        for (rows, c) in ROWS {
            for (k, f) in ACTIVATIONS.into_iter().enumerate() {
                let parameters = if k % 2 == 0 { DType::F32 } else { dtype };
                let is_masked = matches!(f, Activation::Relu | Activation::Relu6);
                for with_residual in [false, true] {
                    batch_norm_case(dtype, parameters, rows, c, f, with_residual, is_masked && with_residual);
                }
            }
        }
    }
}

#[test]
fn batch_norm_sums_do_not_depend_on_the_order_of_blocks() {
    let (rows, c) = (36_000, 8);
    let (x, dy) =
        (DeviceArray::random(rows * c, 1, DType::F32), DeviceArray::random(rows * c, 2, DType::F32));
    let run = |order| {
        emulator::set_order(order).expect("the device is loaded");
        let (saved, factors) =
            (DeviceArray::empty(SAVED_ROWS * c, DType::F32), DeviceArray::empty(2 * c, DType::F32));
        let parameters = BatchNormParameters { weight: None, bias: None, running: None, eps: 1e-3 };
        batch_norm::statistics(gpu(), x.slice(), c, &parameters, None, saved.slice()).expect("launches");
        let pass = BatchNormBackward {
            gpu: gpu(),
            x: x.slice(),
            c,
            saved: saved.slice(),
            activation: Activation::Relu,
            factors: BackwardFactors::OfBatch,
        };
        pass.reduce(dy.slice(), DerivativeSource::None, None, [None, None], factors.slice())
            .expect("launches");
        (saved.to_host(), factors.to_host())
    };
    let [ascending, descending, random] = [0, 1, 7].map(run);
    emulator::set_order(0).expect("the device is loaded");
    assert!(ascending.1.iter().all(|v| v.is_finite()));
    assert_eq!(ascending, descending);
    assert_eq!(ascending, random);
}

fn batch_norm_case(
    dtype: DType,
    of: DType,
    rows: usize,
    c: usize,
    f: Activation,
    with_residual: bool,
    is_masked: bool,
) {
    let what = format!("{rows} x {c} {f:?} residual {with_residual} parameters {of}");
    let len = rows * c;
    let x = DeviceArray::random(len, 1, dtype);
    let dy = DeviceArray::random(len, 2, dtype);
    let residual = with_residual.then(|| DeviceArray::random(len, 3, dtype));
    let (weight, bias) = (DeviceArray::random(c, 4, of), DeviceArray::random(c, 5, of));
    let (mean, var) =
        (DeviceArray::random(c, 6, of), DeviceArray::new((0..c).map(|j| 1.0 + j as f64 / 7.0), of));
    let (saved, y) = (DeviceArray::empty(SAVED_ROWS * c, DType::F32), DeviceArray::empty(len, dtype));
    let parameters = BatchNormParameters {
        weight: Some(weight.slice()),
        bias: Some(bias.slice()),
        running: Some([mean.slice(), var.slice()]),
        eps: 1e-3,
    };
    let momentum = Some(RunningMomentum::Constant(0.1));
    batch_norm::statistics(gpu(), x.slice(), c, &parameters, momentum, saved.slice()).expect("launches");
    let source = residual.as_ref().map(|r| r.slice());
    let mask = DeviceArray::empty(rows * mask_bytes(c), DType::U8);
    match source {
        Some(residual) if is_masked => {
            let source = [saved.slice(), residual];
            batch_norm::apply_masked(
                gpu(),
                (x.slice(), PassBefore::Reduction),
                c,
                source,
                f,
                y.slice(),
                mask.slice(),
            )
        }
        _ => batch_norm::apply(
            gpu(),
            (x.slice(), PassBefore::Reduction),
            c,
            saved.slice(),
            source,
            f,
            y.slice(),
        ),
    }
    .expect("launches");

    let (batch_mean, batch_var) = crate::ops::batch_norm::cpu::statistics(&x.values, c);
    let inv: Vec<f64> = batch_var.iter().map(|v| 1.0 / (v + 1e-3).sqrt()).collect();
    let hat = |i: usize| (x.values[i] - batch_mean[i % c]) * inv[i % c];
    let r = |i: usize| residual.as_ref().map_or(0.0, |r| r.values[i]);
    let z: Vec<f64> = (0..len).map(|i| hat(i) * weight.values[i % c] + bias.values[i % c] + r(i)).collect();
    let mut expected = vec![0.0; len];
    activation::forward(f, &z, &mut expected);
    y.assert_close(&expected, &what);
    let running = |old: &DeviceArray, new: &[f64], factor: f64| -> Vec<f64> {
        old.values.iter().zip(new).map(|(o, n)| 0.9 * o + 0.1 * n * factor).collect()
    };
    mean.assert_close(&running(&mean, &batch_mean, 1.0), &what);
    var.assert_close(&running(&var, &batch_var, rows as f64 / (rows - 1) as f64), &what);

    let d = activation_gradient(f, &z, &dy.values);
    let column = |g: &dyn Fn(usize) -> f64| -> Vec<f64> {
        (0..c).map(|j| (0..rows).map(|row| g(row * c + j)).sum()).collect()
    };
    let (db, dw) = (column(&|i| d[i]), column(&|i| d[i] * hat(i)));
    let expected_dx: Vec<f64> = (0..len)
        .map(|i| {
            let (j, n) = (i % c, rows as f64);
            weight.values[j] * inv[j] * (d[i] - db[j] / n - hat(i) * dw[j] / n)
        })
        .collect();
    let backward = BatchNormBackward {
        gpu: gpu(),
        x: x.slice(),
        c,
        saved: saved.slice(),
        activation: f,
        factors: BackwardFactors::OfBatch,
    };
    let (dweight, dbias) = (DeviceArray::empty(c, of), DeviceArray::empty(c, of));
    let (factors, dx, dres) = (
        DeviceArray::empty(2 * c, DType::F32),
        DeviceArray::empty(len, dtype),
        DeviceArray::empty(len, dtype),
    );
    let parameters = [Some(dweight.slice()), Some(dbias.slice())];
    if let Some(residual) = &residual {
        let source = if is_masked {
            DerivativeSource::Mask(mask.slice())
        } else {
            DerivativeSource::Residual(residual.slice())
        };
        backward
            .reduce(dy.slice(), source, Some(dres.slice()), parameters, factors.slice())
            .expect("launches");
        backward
            .input_gradient(dres.slice(), factors.slice(), Activation::Identity, dx.slice())
            .expect("launches");
        dres.assert_close(&d, &what);
    } else {
        backward
            .reduce(dy.slice(), DerivativeSource::None, None, parameters, factors.slice())
            .expect("launches");
        backward.input_gradient(dy.slice(), factors.slice(), f, dx.slice()).expect("launches");
    }
    dweight.assert_close(&dw, &what);
    dbias.assert_close(&db, &what);
    dx.assert_close(&expected_dx, &what);
}

#[test]
fn statistics_are_accurate_with_a_large_offset() {
    let (rows, c) = (3000, 3);
    let x = DeviceArray::new((0..rows * c).map(|i| 1e4 + f64::from(i as u32 * 7919 % 13) - 6.0), DType::F32);
    let saved = DeviceArray::empty(SAVED_ROWS * c, DType::F32);
    let parameters = BatchNormParameters { weight: None, bias: None, running: None, eps: 0.0 };
    batch_norm::statistics(gpu(), x.slice(), c, &parameters, None, saved.slice()).expect("launches");
    let (mean, var) = crate::ops::batch_norm::cpu::statistics(&x.values, c);
    let saved = saved.to_host();
    for j in 0..c {
        assert!((saved[j] - mean[j]).abs() <= 1e-3, "{} for {}", saved[j], mean[j]);
        let inv = 1.0 / var[j].sqrt();
        assert!((saved[c + j] - inv).abs() <= 1e-5 * inv, "{} for {inv}", saved[c + j]);
    }
}

#[test]
fn frozen_batch_norm_uses_running_statistics() {
    let (rows, c) = (40, 24);
    for dtype in FLOATS {
        let (x, dy) = (DeviceArray::random(rows * c, 1, dtype), DeviceArray::random(rows * c, 2, dtype));
        let (mean, var) =
            (DeviceArray::random(c, 3, dtype), DeviceArray::new((0..c).map(|j| 1.0 + j as f64), dtype));
        let (saved, y) =
            (DeviceArray::empty(SAVED_ROWS * c, DType::F32), DeviceArray::empty(rows * c, dtype));
        let running = [mean.slice(), var.slice()];
        let parameters = BatchNormParameters { weight: None, bias: None, running: Some(running), eps: 1e-5 };
        batch_norm::frozen_statistics(gpu(), running, c, &parameters, saved.slice()).expect("launches");
        batch_norm::apply(
            gpu(),
            (x.slice(), PassBefore::Reduction),
            c,
            saved.slice(),
            None,
            Activation::Identity,
            y.slice(),
        )
        .expect("launches");
        let inv = |i: usize| 1.0 / (var.values[i % c] + 1e-5).sqrt();
        let expected: Vec<f64> = (0..rows * c).map(|i| (x.values[i] - mean.values[i % c]) * inv(i)).collect();
        y.assert_close(&expected, "frozen");
        let activation = Activation::Identity;
        let backward = BatchNormBackward {
            gpu: gpu(),
            x: x.slice(),
            c,
            saved: saved.slice(),
            activation,
            factors: BackwardFactors::Zeros,
        };
        let factors = DeviceArray::empty(2 * c, DType::F32);
        backward
            .reduce(dy.slice(), DerivativeSource::None, None, [None, None], factors.slice())
            .expect("launches");
        backward.input_gradient(dy.slice(), factors.slice(), activation, dy.slice()).expect("launches");
        let expected: Vec<f64> = (0..rows * c).map(|i| dy.values[i] * inv(i)).collect();
        dy.assert_close(&expected, "frozen, in place");
    }
}

#[test]
fn row_norm_matches_the_cpu_with_parameters_of_either_dtype() {
    for dtype in FLOATS {
        for (rows, n) in [(5, 8), (70, 3), (33, 300), (3, 2500)] {
            for (centre, of) in [(true, dtype), (false, DType::F32)] {
                let what = format!("{rows} x {n} centre {centre} parameters {of}");
                let norm = RowNorm { n, centre, eps: 1e-3 };
                let (x, dy) =
                    (DeviceArray::random(rows * n, 1, dtype), DeviceArray::random(rows * n, 2, dtype));
                let (weight, bias) = (DeviceArray::random(n, 3, of), DeviceArray::random(n, 4, of));
                let (y, stats) =
                    (DeviceArray::empty(rows * n, dtype), DeviceArray::empty(2 * rows, DType::F32));
                let parameters = [Some(weight.slice()), Some(bias.slice())];
                row_norm::forward(gpu(), &norm, x.slice(), parameters, y.slice(), stats.slice())
                    .expect("launches");
                let (mut expected, mut expected_stats) = (vec![0.0; rows * n], vec![0.0; 2 * rows]);
                let (w, b) = (&weight.values[..], &bias.values[..]);
                norm.forward(&x.values, Some(w), Some(b), &mut expected, &mut expected_stats);
                y.assert_close(&expected, &what);
                let dx = DeviceArray::empty(rows * n, dtype);
                row_norm::backward(
                    gpu(),
                    &norm,
                    x.slice(),
                    dy.slice(),
                    Some(weight.slice()),
                    stats.slice(),
                    dx.slice(),
                )
                .expect("launches");
                norm.backward(&x.values, &dy.values, Some(w), &expected_stats, &mut expected);
                dx.assert_close(&expected, &what);
                let (dweight, dbias) = (DeviceArray::empty(n, of), DeviceArray::empty(n, of));
                let wanted = [Some(dweight.slice()), Some(dbias.slice())];
                row_norm::parameter_gradients(gpu(), &norm, x.slice(), dy.slice(), stats.slice(), wanted)
                    .expect("launches");
                let [dw, db] = norm.parameter_gradients(&x.values, &dy.values, &expected_stats);
                dweight.assert_close(&dw, &what);
                dbias.assert_close(&db, &what);
            }
        }
    }
}

#[test]
fn group_norm_matches_the_cpu_with_parameters_of_either_dtype() {
    for dtype in FLOATS {
        for (images, pixels, c, groups) in [(2, 9, 8, 2), (3, 300, 6, 3), (1, 49, 64, 32), (4, 1, 40, 1)] {
            for of in [dtype, DType::F32] {
                let what = format!("{images} x {pixels} x {c} in {groups} parameters {of}");
                let len = images * pixels * c;
                let norm = GroupNorm { pixels, c, groups, eps: 1e-3 };
                let (x, dy) = (DeviceArray::random(len, 1, dtype), DeviceArray::random(len, 2, dtype));
                let (weight, bias) = (DeviceArray::random(c, 3, of), DeviceArray::random(c, 4, of));
                let (y, stats) =
                    (DeviceArray::empty(len, dtype), DeviceArray::empty(2 * images * groups, DType::F32));
                let parameters = [weight.slice(), bias.slice()];
                group_norm::forward(gpu(), &norm, x.slice(), parameters, y.slice(), stats.slice())
                    .expect("launches");
                let (mut expected, mut expected_stats) = (vec![0.0; len], vec![0.0; 2 * images * groups]);
                norm.forward(&x.values, &weight.values, &bias.values, &mut expected, &mut expected_stats);
                y.assert_close(&expected, &what);
                let (dx, dweight, dbias) =
                    (DeviceArray::empty(len, dtype), DeviceArray::empty(c, of), DeviceArray::empty(c, of));
                let wanted = [Some(dweight.slice()), Some(dbias.slice())];
                let operands = [x.slice(), dy.slice(), weight.slice(), stats.slice()];
                group_norm::backward(gpu(), &norm, operands, Some(dx.slice()), wanted).expect("launches");
                let mut partial = vec![0.0; images * 2 * c];
                norm.backward(
                    &x.values,
                    &dy.values,
                    &weight.values,
                    &expected_stats,
                    &mut expected,
                    &mut partial,
                );
                dx.assert_close(&expected, &what);
                let sum = |part: usize| -> Vec<f64> {
                    (0..c).map(|j| partial.iter().skip(part * c + j).step_by(2 * c).sum()).collect()
                };
                dweight.assert_close(&sum(0), &what);
                dbias.assert_close(&sum(1), &what);
            }
        }
    }
}
