//! The fused operations against the separate operations, on the emulated device.
use crate::cuda::cudnn::ConvPlanChoice;
use crate::cuda::{CudaGraph, set_conv_plan_choice};
use crate::{Activation, BatchNorm, Conv2dOptions, DType, Device, Result, Tensor, gradients};

pub(super) const HALF_DTYPES: [DType; 2] = [DType::F16, DType::BF16];

pub(super) fn device() -> Device {
    Device::emulated(1).expect("g++ is installed")
}

/// Pseudo-random numbers in -1..1, plus `offset`, on the emulated device.
pub(super) fn random(shape: &[usize], seed: usize, offset: f32, dtype: DType) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 1013) as f32 / 506.0 - 1.0 + offset;
    let count = shape.iter().product();
    let host = Tensor::from_vec((0..count).map(value).collect(), shape).expect("memory");
    host.to_dtype(dtype).and_then(|t| t.to_device(&device())).expect("memory")
}

pub(super) fn values(t: &Tensor) -> Vec<f32> {
    let host = t.to_device(&Device::Cpu).and_then(|t| t.to_dtype(DType::F32)).expect("a copy");
    host.to_vec().expect("f32")
}

/// Asserts that the elements agree within `tolerance` times the largest.
#[track_caller]
pub(super) fn assert_close(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    let (got, want) = (values(got), values(want));
    let largest = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in got.iter().zip(&want).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}, element {i}: {a}, not {b}");
    }
}

/// Tolerance for a few roundings in the dtype.
pub(super) fn tolerance(dtype: DType) -> f32 {
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

const SAME: Conv2dOptions = Conv2dOptions { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };

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

#[test]
fn pending_batch_norm_matches_separate_operations() {
    // With a kink after the second norm a rounding could change a gradient by a whole term.
    let f = Activation::Identity;
    for dtype in HALF_DTYPES {
        for resolved in [false, true] {
            let second = || {
                let weight = random(&[8, 3, 3, 16], 10, 0.0, dtype).variable();
                (weight, BatchNorm { training: true, eps: 1e-3, ..BatchNorm::default() })
            };
            let of_weight = |weight: &Tensor| weight.grad().expect("a gradient");
            let (weight, norm) = second();
            let mut fused = Inputs::new(dtype, 0.0).run(|i| {
                let pending = i.x.conv2d_batch_norm_pending(&i.weight, &SAME, &i.norm(true))?;
                match resolved {
                    true => pending.resolve()?.conv2d_batch_norm_act(&weight, &SAME, &norm, f, None),
                    false => pending.conv2d_batch_norm_act(&weight, &SAME, &norm, f, None),
                }
            });
            fused.push(of_weight(&weight));
            let (weight, norm) = second();
            let mut parts = Inputs::new(dtype, 0.0).run(|i| {
                let y = i.x.conv2d(&i.weight, None, &SAME)?;
                let y = y.batch_norm_act(&i.norm(true), Activation::Relu, None)?;
                y.conv2d(&weight, None, &SAME)?.batch_norm_act(&norm, f, None)
            });
            parts.push(of_weight(&weight));
            assert_eq!(fused.len(), parts.len());
            for (which, (a, b)) in fused.iter().zip(&parts).enumerate() {
                // Roundings of two layers, and normalisation steps rounded to the storage dtype.
                let what = format!("{dtype}, resolved {resolved}, result {which}");
                assert_close(&what, a, b, 4.0 * tolerance(dtype));
            }
        }
    }
}

#[test]
fn pending_batch_norm_supports_create_graph() {
    let dtype = DType::F16;
    let of = |create_graph: bool, resolved: bool| -> Result<Vec<Tensor>> {
        let i = Inputs::new(dtype, 0.0);
        let weight = random(&[8, 3, 3, 16], 10, 0.0, dtype).variable();
        let pending = i.x.conv2d_batch_norm_pending(&i.weight, &SAME, &i.norm(true))?;
        let norm = BatchNorm { training: true, eps: 1e-3, ..BatchNorm::default() };
        let y = match resolved {
            true => pending.resolve()?.conv2d(&weight, None, &SAME)?,
            false => pending.conv2d_batch_norm_act(&weight, &SAME, &norm, Activation::Identity, None)?,
        };
        let upstream = random(y.dims(), 9, 0.0, dtype);
        let inputs = [&i.x, &i.weight, &i.scale, &i.bias, &weight];
        let grads = gradients(&[(&y, &upstream)], &inputs, create_graph)?;
        Ok(grads.into_iter().map(|g| g.expect("the output depends on every input")).collect())
    };
    for resolved in [false, true] {
        let kernels = of(false, resolved).expect("has gradients");
        let composed = of(true, resolved).expect("has gradients");
        assert!(composed.iter().all(Tensor::requires_grad));
        for (which, (a, b)) in composed.iter().zip(&kernels).enumerate() {
            let what = format!("resolved {resolved}, gradient {which}");
            assert_close(&what, a, b, 4.0 * tolerance(dtype));
        }
    }
}

#[test]
fn conv2d_with_sums_returns_sums_only_where_cudnn_supports_it() {
    for dtype in HALF_DTYPES {
        let (x, weight) = (random(&[2, 6, 5, 8], 1, 0.0, dtype), random(&[16, 3, 3, 8], 2, 0.0, dtype));
        let (y, sums) = x.conv2d_with_sums(&weight, &SAME).expect("runs");
        let (y, sums) = (values(&y), values(&sums.expect("sums")));
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
fn variance_is_accurate_for_a_mean_far_from_zero() {
    // Every output is about 8 * 20 * weight: the squared mean is hundreds of times the variance.
    for dtype in HALF_DTYPES {
        let of = |fused: bool| {
            let inputs = Inputs::new(dtype, 20.0);
            let point = random(&[16, 1, 1, 8], 2, 0.0, dtype);
            let (y, norm) = (&inputs.x, inputs.norm(true));
            match fused {
                true => {
                    y.conv2d_batch_norm_act(&point, &Conv2dOptions::default(), &norm, Activation::Relu, None)
                }
                false => y
                    .conv2d(&point, None, &Conv2dOptions::default())
                    .and_then(|y| y.batch_norm_act(&norm, Activation::Relu, None)),
            }
            .expect("runs");
            inputs.running
        };
        let ((mean, var), (want_mean, want_var)) = (of(true), of(false));
        assert_close("mean", &mean, &want_mean, 1e-6);
        assert_close("variance", &var, &want_var, 1e-3);
    }
}

#[test]
fn convolution_plans_are_benchmarked_outside_of_capture_only() {
    let device = device();
    let x = random(&[1, 9, 9, 8], 1, 0.0, DType::F16);
    let weight = random(&[8, 3, 3, 8], 2, 0.0, DType::F16);
    let heuristic = values(&x.conv2d(&weight, None, &SAME).expect("runs"));
    let timed = ConvPlanChoice::Benchmark { candidates: 10, workspace: 1 << 30 };
    set_conv_plan_choice(&device, timed).expect("a device");
    let error =
        CudaGraph::capture(&device, || x.conv2d(&weight, None, &SAME).map(drop)).err().expect("an error");
    let chosen = x.conv2d(&weight, None, &SAME).map(|y| values(&y));
    let captured = CudaGraph::capture(&device, || x.conv2d(&weight, None, &SAME).map(drop));
    set_conv_plan_choice(&device, ConvPlanChoice::Heuristic).expect("a device");
    assert!(error.to_string().contains("no plan was made yet"), "{error}");
    assert_eq!(chosen.expect("runs").len(), heuristic.len());
    captured.expect("captures a convolution with a plan");
    assert!(set_conv_plan_choice(&Device::Cpu, timed).is_err());
}
