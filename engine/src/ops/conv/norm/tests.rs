//! The fused operations against the separate operations, on the emulated device.
use crate::cuda::cudnn::{ConvBenchmark, ConvEngineOptions, ConvPlanChoice};
use crate::cuda::{CudaGraph, set_conv_engine_options};
use crate::op::launch;
use crate::ops::batch_norm::NormInput;
use crate::ops::conv::conv_shape;
use crate::ops::conv::cuda::plan_with_sums;
use crate::{
    Activation, BatchNorm, Conv2dOptions, ConvAlgorithm, ConvBatchNorm, DType, Device, Pool2dOptions, Result,
    Tensor,
};

const HALF_DTYPES: [DType; 2] = [DType::F16, DType::BF16];

fn device() -> Device {
    Device::emulated(1).expect("g++ is installed")
}

/// Pseudo-random numbers in -1..1, plus `offset`, on the emulated device.
fn random(shape: &[usize], seed: usize, offset: f32, dtype: DType) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0 + offset;
    let count = shape.iter().product();
    let host = Tensor::from_vec((0..count).map(value).collect(), shape).expect("memory");
    host.to_dtype(dtype).and_then(|t| t.to_device(&device())).expect("memory")
}

fn values(t: &Tensor) -> Vec<f32> {
    let host = t.to_device(&Device::Cpu).and_then(|t| t.to_dtype(DType::F32)).expect("a copy");
    host.to_vec().expect("f32")
}

/// Asserts that the elements agree within `tolerance` times the largest.
#[track_caller]
fn assert_close(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    let (got, want) = (values(got), values(want));
    let largest = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in got.iter().zip(&want).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}, element {i}: {a}, not {b}");
    }
}

/// Tolerance for a few roundings in the dtype.
fn tolerance(dtype: DType) -> f32 {
    if dtype == DType::F16 { 4e-3 } else { 3e-2 }
}

struct Inputs {
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    residual: Tensor,
    running: (Tensor, Tensor),
}

impl Inputs {
    fn new(dtype: DType, x_offset: f32) -> Inputs {
        Inputs {
            x: random(&[2, 6, 5, 8], 1, x_offset, dtype).variable(),
            weight: random(&[16, 3, 3, 8], 2, 0.0, dtype).variable(),
            scale: random(&[16], 3, 2.0, DType::F32).variable(),
            bias: random(&[16], 4, 0.0, DType::F32).variable(),
            residual: random(&[2, 6, 5, 16], 5, 0.0, dtype).variable(),
            running: (random(&[16], 6, 0.0, DType::F32), random(&[16], 7, 3.0, DType::F32)),
        }
    }

    fn norm(&self, training: bool) -> BatchNorm<'_> {
        let (mean, var) = &self.running;
        BatchNorm {
            weight: Some(&self.scale),
            bias: Some(&self.bias),
            running: Some((mean, var)),
            training,
            momentum: 0.1,
            eps: 1e-3,
            ..BatchNorm::default()
        }
    }

    /// Runs `f`; its output, running statistics and gradients.
    fn run(&self, f: impl FnOnce(&Inputs) -> Result<Tensor>) -> Vec<Tensor> {
        let y = f(self).expect("the operation runs");
        y.backward_from(&random(y.dims(), 9, 0.0, y.dtype())).expect("has gradients");
        let leaves = [&self.x, &self.weight, &self.scale, &self.bias];
        let mut all = vec![y.detach(), self.running.0.clone(), self.running.1.clone()];
        all.extend(leaves.iter().map(|t| t.grad().expect("a gradient")));
        all.extend(self.residual.grad());
        all
    }
}

const SAME: Conv2dOptions = Conv2dOptions {
    stride: [1, 1],
    padding: [1, 1],
    dilation: [1, 1],
    groups: 1,
    algorithm: ConvAlgorithm::Auto,
};

#[test]
fn pooled_batch_norm_has_the_bits_of_separate_operations() {
    let pool = Pool2dOptions { kernel: [3, 3], padding: [1, 1], ..Pool2dOptions::default() };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (f, training) in [
            (Activation::Relu, true),
            (Activation::Identity, true),
            (Activation::Silu, true),
            (Activation::Relu, false),
        ] {
            let inputs = || Inputs::new(dtype, 0.0);
            let fused = inputs().run(|i| {
                let conv =
                    ConvBatchNorm { x: &i.x, weight: &i.weight, options: SAME, norm: i.norm(training) };
                conv.act_max_pool(f, &pool)
            });
            let parts = inputs().run(|i| {
                let y = i.x.conv2d_batch_norm_act(&i.weight, &SAME, &i.norm(training), f, None)?;
                y.max_pool2d(&pool)
            });
            assert_eq!(fused.len(), parts.len());
            for (which, (a, b)) in fused.iter().zip(&parts).enumerate() {
                let bits = |t: &Tensor| values(t).into_iter().map(f32::to_bits).collect::<Vec<_>>();
                assert_eq!(bits(a), bits(b), "{dtype} {f:?}, training {training}, result {which}");
            }
        }
    }
}

#[test]
fn conv2d_batch_norm_act_matches_separate_operations() {
    for dtype in HALF_DTYPES {
        for (f, with_residual, training) in [
            (Activation::Relu, false, true),
            (Activation::Relu, true, true),
            (Activation::Silu, false, true),
            (Activation::Relu, false, false),
        ] {
            let fused = Inputs::new(dtype, 0.0).run(|i| {
                let residual = with_residual.then_some(&i.residual);
                i.x.conv2d_batch_norm_act(&i.weight, &SAME, &i.norm(training), f, residual)
            });
            let parts = Inputs::new(dtype, 0.0).run(|i| {
                let residual = with_residual.then_some(&i.residual);
                i.x.conv2d(&i.weight, None, &SAME)?.batch_norm_act(&i.norm(training), f, residual)
            });
            assert_eq!(fused.len(), parts.len());
            for (which, (a, b)) in fused.iter().zip(&parts).enumerate() {
                let what = format!("{dtype} {f:?}, residual {with_residual}, result {which}");
                assert_close(&what, a, b, tolerance(dtype));
            }
        }
    }
}

/// A convolution and the sums of its channels in one kernel, whether timing prefers that or not.
fn fused(x: &Tensor, weight: &Tensor, options: &Conv2dOptions) -> (Tensor, Tensor) {
    let operands = [("x", x), ("weight", weight)];
    let s = conv_shape(&operands, options).expect("they fit");
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &x.device()).expect("memory");
    let y = zeros(&[s.n, s.out_h(), s.out_w(), s.c_out], x.dtype());
    let sums = zeros(&[2, s.c_out], DType::F32);
    let [of_y, of_sums] = [&y, &sums].map(Tensor::device_view);
    let is_fused = launch("conv2d", &operands, |gpu, of| {
        plan_with_sums(gpu, &s, of[0], of[1], of_y.slice(), of_sums.slice())
    });
    assert!(is_fused.expect("runs"), "the fusion is tested");
    drop((of_y, of_sums));
    (y, sums)
}

#[test]
fn conv2d_with_sums_returns_sums_only_where_cudnn_supports_it() {
    for dtype in HALF_DTYPES {
        let (x, weight) = (random(&[2, 6, 5, 8], 1, 0.0, dtype), random(&[16, 3, 3, 8], 2, 0.0, dtype));
        let (y, sums) = fused(&x, &weight, &SAME);
        let (y, sums) = (values(&y), values(&sums));
        for c in 0..16 {
            let column = || y.iter().skip(c).step_by(16).map(|v| f64::from(*v));
            let (sum, squares): (f64, f64) = (column().sum(), column().map(|v| v * v).sum());
            assert!((f64::from(sums[c]) - sum).abs() < 1e-4, "{dtype}, channel {c}");
            assert!((f64::from(sums[16 + c]) - squares).abs() < 1e-4 * squares, "{dtype}, channel {c}");
        }
    }
    // Channels not in multiples of 8, groups, and f32 (which must not be rounded to TF32).
    for (dtype, c_in, group_in) in [(DType::F16, 6, 6), (DType::F16, 16, 8), (DType::F32, 8, 8)] {
        let groups = c_in / group_in;
        let (x, weight) =
            (random(&[1, 4, 4, c_in], 1, 0.0, dtype), random(&[16, 1, 1, group_in], 2, 0.0, dtype));
        let options = Conv2dOptions { groups, ..Conv2dOptions::default() };
        assert!(x.conv2d_with_sums(&weight, &options).expect("runs").1.is_none(), "{dtype} {c_in} {groups}");
    }
}

#[test]
fn statistics_and_outputs_match_f64_for_means_far_from_zero() {
    const IMAGES: [usize; 4] = [256, 56, 56, 8];
    const ROWS: usize = 802_816;
    // Ratio of mean and standard deviation by output channel; the last one is constant.
    const RATIOS: [f64; 8] = [0.0, 1.0, 5.0, 6.0, -30.0, 100.0, 1000.0, f64::INFINITY];
    // The first input channel is 1, so that its weight is the mean. The others are random and, with a weight of 1/2, add up to a standard
    // deviation of about 0.76.
    let noise = |i: usize| ((i * 7919) % 1013 + (i * 104_729) % 997) as f32 / 1004.0 - 1.0;
    let pixels = (0..ROWS * 8).map(|i| if i % 8 == 0 { 1.0 } else { noise(i / 3) }).collect();
    let weights = RATIOS.iter().flat_map(|ratio| {
        let (mean, spread) = if ratio.is_finite() { (0.76 * ratio, 0.5) } else { (76.0, 0.0) };
        (0..8).map(move |c| if c == 0 { mean as f32 } else { spread })
    });
    let (x, weight) = (Tensor::from_vec(pixels, IMAGES), Tensor::from_vec(weights.collect(), [8, 1, 1, 8]));
    let on_device =
        |t: Tensor, dtype| t.to_dtype(dtype).and_then(|t| t.to_device(&device())).expect("memory");
    let (x, weight) = (x.expect("memory"), weight.expect("memory"));
    for (dtype, rounding) in [(DType::F16, 2f64.powi(-11)), (DType::BF16, 2f64.powi(-8))] {
        let (x, weight) = (on_device(x.clone(), dtype), on_device(weight.clone(), dtype));
        let running = [0.0, 1.0].map(|v| Tensor::from_vec(vec![v; 8], [8]).expect("memory"));
        let running = running.map(|t| on_device(t, DType::F32));
        let norm = BatchNorm {
            running: Some((&running[0], &running[1])),
            training: true,
            momentum: 1.0,
            eps: 1e-5,
            ..BatchNorm::default()
        };
        let (y, sums) = fused(&x, &weight, &Conv2dOptions::default());
        let out =
            y.batch_norm_act_of(NormInput::WithSums(&sums), &norm, Activation::Identity, None).expect("runs");
        let (y, out, means, vars) = (values(&y), values(&out), values(&running[0]), values(&running[1]));
        for (channel, ratio) in RATIOS.iter().enumerate() {
            let column = || y.iter().skip(channel).step_by(8).map(|v| f64::from(*v));
            let mean = column().sum::<f64>() / ROWS as f64;
            let var = column().map(|v| (v - mean).powi(2)).sum::<f64>() / ROWS as f64;
            let what = format!("{dtype}, mean {ratio} std");
            let of_mean = (f64::from(means[channel]) - mean).abs();
            assert!(
                of_mean <= 1e-6 * (mean.abs() + var.sqrt()),
                "{what}: mean {} for {mean}",
                means[channel]
            );
            let unbiased = var * ROWS as f64 / (ROWS - 1) as f64;
            let of_var = (f64::from(vars[channel]) - unbiased).abs();
            // Up to 32 var = mean^2, a hundred times the relative error of cuDNN's f32 sums; beyond that, the rounding to f32.
            let tolerance = if mean * mean > 32.0 * var { 1e-6 } else { 1e-4 };
            assert!(of_var <= tolerance * unbiased, "{what}: variance {} for {unbiased}", vars[channel]);
            let std = (var + 1e-5).sqrt();
            for (v, out) in column().zip(out.iter().skip(channel).step_by(8)) {
                let want = (v - mean) / std;
                // x * scale + shift cancels in f32 for a large mean.
                let tolerance = 1.1 * rounding * want.abs() + 2e-7 * (mean.abs() / std + 1.0);
                let error = (f64::from(*out) - want).abs();
                assert!(error <= tolerance, "{what}: {out} for {want}");
            }
        }
    }
}

#[test]
fn convolution_plans_are_benchmarked_outside_of_capture_only() {
    let device = device();
    let x = random(&[1, 9, 9, 8], 1, 0.0, DType::F16);
    let weight = random(&[8, 3, 3, 8], 2, 0.0, DType::F16);
    let heuristic = values(&x.conv2d(&weight, None, &SAME).expect("runs"));
    let benchmark = ConvBenchmark { disk_cache: false, ..ConvBenchmark::default() };
    let options = |choice| ConvEngineOptions { tf32: false, deterministic: true, choice };
    let timed = options(ConvPlanChoice::Benchmark(benchmark));
    set_conv_engine_options(&device, timed).expect("a device");
    let error =
        CudaGraph::capture(&device, || x.conv2d(&weight, None, &SAME).map(drop)).err().expect("an error");
    let chosen = x.conv2d(&weight, None, &SAME).map(|y| values(&y));
    let captured = CudaGraph::capture(&device, || x.conv2d(&weight, None, &SAME).map(drop));
    set_conv_engine_options(&device, options(ConvPlanChoice::Heuristic)).expect("a device");
    assert!(error.to_string().contains("no plan was made yet"), "{error}");
    assert_eq!(chosen.expect("runs").len(), heuristic.len());
    captured.expect("captures a convolution with a plan");
    assert!(set_conv_engine_options(&Device::Cpu, timed).is_err());
}

/// Convolution, batch norm and activation, then a convolution, on the CPU.
fn chain(i: &Inputs, second: &Tensor, options: &Conv2dOptions, f: Activation, fused: bool) -> Result<Tensor> {
    let norm = i.norm(true);
    let y = match fused {
        true => i.x.conv2d_batch_norm_act(&i.weight, &SAME, &norm, f, None)?,
        false => i.x.conv2d(&i.weight, None, &SAME)?.batch_norm_act(&norm, f, None)?,
    };
    assert_eq!(y.storage().is_deferred(), fused, "computed at its first use");
    let z = y.conv2d(second, None, options)?;
    Ok(z)
}

#[test]
fn deferred_batch_norm_gives_the_bits_of_an_immediate_one() {
    let on_cpu = |t: &Tensor| t.to_device(&Device::Cpu).expect("a copy").detach();
    for (kernel, padding, stride, out, f) in [
        (3, 1, 1, 32, Activation::Relu),
        (3, 1, 1, 8, Activation::Relu6),
        (3, 1, 1, 32, Activation::Silu),
        (1, 0, 1, 24, Activation::HardSwish),
        (3, 1, 2, 16, Activation::Relu),
    ] {
        let second = random(&[out, kernel, kernel, 32], 11, 0.0, DType::F32);
        let options =
            Conv2dOptions { padding: [padding; 2], stride: [stride; 2], ..Conv2dOptions::default() };
        let run = |fused: bool| {
            let mut i = Inputs::new(DType::F32, 0.0);
            i.x = on_cpu(&random(&[3, 9, 8, 8], 1, 0.0, DType::F32)).variable();
            i.weight = on_cpu(&random(&[32, 3, 3, 8], 2, 0.0, DType::F32)).variable();
            i.scale = on_cpu(&random(&[32], 3, 2.0, DType::F32)).variable();
            i.bias = on_cpu(&random(&[32], 4, 0.0, DType::F32)).variable();
            i.running =
                (on_cpu(&random(&[32], 6, 0.0, DType::F32)), on_cpu(&random(&[32], 7, 3.0, DType::F32)));
            let second = on_cpu(&second).variable();
            let z = chain(&i, &second, &options, f, fused).expect("runs");
            z.backward_from(&on_cpu(&random(z.dims(), 9, 0.0, DType::F32))).expect("has gradients");
            let leaves = [&i.x, &i.weight, &i.scale, &i.bias, &second].map(|t| t.grad().expect("a gradient"));
            let all = [z.detach()].into_iter().chain(leaves).chain([i.running.0, i.running.1]);
            all.map(|t| t.to_vec::<f32>().expect("f32")).collect::<Vec<_>>()
        };
        assert!(run(true) == run(false), "{kernel}x{kernel}, stride {stride}, {f:?}");
    }
}

#[test]
fn deferred_elements_are_computed_once_and_writes_replace_them() {
    let cpu =
        |shape: &[usize], seed| random(shape, seed, 0.0, DType::F32).to_device(&Device::Cpu).expect("a copy");
    let (x, weight) = (cpu(&[2, 4, 4, 8], 1).variable(), cpu(&[8, 1, 1, 8], 2));
    let norm = BatchNorm { training: true, eps: 1e-5, ..BatchNorm::default() };
    let options = Conv2dOptions::default();
    let y = x.conv2d_batch_norm_act(&weight, &options, &norm, Activation::Relu, None).expect("runs");
    assert!(y.storage().is_deferred());
    let elements = y.to_vec::<f32>().expect("f32");
    assert!(!y.storage().is_deferred());
    let copy = y.recomputable();
    assert!(copy.storage().is_deferred(), "the formula was kept for the backward pass");
    assert_eq!(copy.to_vec::<f32>().expect("f32"), elements);
    y.write::<f32>().expect("on the CPU").fill(7.0);
    assert_eq!(y.recomputable().to_vec::<f32>().expect("f32"), vec![7.0; elements.len()]);
}
