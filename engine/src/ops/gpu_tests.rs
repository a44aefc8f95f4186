//! Operations and their gradients on the emulated device, against the CPU.
use crate::{
    Activation, BatchNorm, Conv2dOptions, ConvBatchNorm, DType, Device, Error, GlobalPool, Interpolation,
    Pool2dOptions, Result, Tensor,
};

fn device() -> Device {
    Device::emulated(1).expect("g++ is installed")
}

fn random(shape: impl crate::IntoShape, seed: usize) -> Tensor {
    let shape = shape.into_shape().expect("few elements");
    let value = |i: usize| ((i * 7919 + seed * 104_729) % 1013) as f32 / 253.0 - 2.0;
    Tensor::from_vec((0..shape.numel()).map(value).collect(), shape).expect("memory")
}

/// Output and gradients of `f` on one device; the upstream gradient is the same on each.
fn run(device: Device, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Vec<Vec<f32>> {
    let inputs: Vec<Tensor> =
        inputs.iter().map(|t| t.to_device(&device).expect("memory").variable()).collect();
    let y = f(&inputs).expect("the operation runs");
    assert_eq!(y.device(), device);
    y.backward_from(&random(*y.shape(), 9).to_device(&device).expect("memory")).expect("has gradients");
    let grads = inputs.iter().map(|t| t.grad().expect("a gradient"));
    std::iter::once(y.clone()).chain(grads).map(|t| t.to_vec::<f32>().expect("f32")).collect()
}

#[track_caller]
fn assert_agrees(what: &str, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let (cpu, gpu) = (run(Device::Cpu, inputs, &f), run(device(), inputs, &f));
    for (which, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
        let largest = cpu.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
        for (i, (a, b)) in cpu.iter().zip(gpu).enumerate() {
            assert!((a - b).abs() <= 1e-4 * largest, "{what}, result {which}, element {i}: {b}, not {a}");
        }
    }
}

#[test]
fn norms_match_the_cpu() {
    let x = || random([2, 5, 3, 8], 1);
    let vector = |seed| random([8], seed);
    for f in [Activation::Identity, Activation::Relu, Activation::Silu] {
        for residual in [false, true] {
            let mut inputs = vec![x(), vector(2), vector(3)];
            inputs.extend(residual.then(|| random([2, 5, 3, 8], 4)));
            for training in [true, false] {
                assert_agrees("batch norm", &inputs, |t| {
                    let (mean, var) = (vector(5), Tensor::ones([8], DType::F32, &Device::Cpu)?);
                    let (mean, var) = (mean.to_device(&t[0].device())?, var.to_device(&t[0].device())?);
                    let norm = BatchNorm {
                        weight: Some(&t[1]),
                        bias: Some(&t[2]),
                        running: Some((&mean, &var)),
                        training,
                        momentum: 0.1,
                        eps: 1e-3,
                        ..BatchNorm::default()
                    };
                    let y = t[0].batch_norm_act(&norm, f, t.get(3))?;
                    let was_updated = mean.to_vec::<f32>()? != vector(5).to_vec::<f32>()?;
                    assert_eq!(was_updated, training);
                    Ok(y)
                });
            }
        }
    }
    let inputs = [x(), vector(2), vector(3)];
    assert_agrees("group norm", &inputs, |t| t[0].group_norm(2, &t[1], &t[2], 1e-3));
    assert_agrees("layer norm", &inputs, |t| t[0].layer_norm(Some(&t[1]), Some(&t[2]), 1e-3));
    assert_agrees("layer norm without weight", &[x(), vector(3)], |t| {
        t[0].layer_norm(None, Some(&t[1]), 1e-3)
    });
    assert_agrees("rms norm", &inputs[..2], |t| t[0].rms_norm(Some(&t[1]), 1e-3));
    assert_agrees("standardised weight", &[random([6, 3, 3, 4], 1)], |t| t[0].standardize_weight(1e-3));
}

/// Output and gradients of the fused batch norm against the separate operations.
#[test]
fn batch_norm_act_with_residual_matches_separate_operations() {
    let cpu = [DType::F32, DType::F64].map(|dtype| (Device::Cpu, dtype));
    let emulated = [DType::F32, DType::F16, DType::BF16].map(|dtype| (device(), dtype));
    for (device, dtype) in cpu.into_iter().chain(emulated) {
        // The separate operations round in between.
        let tolerance = match dtype {
            DType::F64 => 1e-12,
            DType::F32 => 2e-5,
            DType::F16 => 4e-3,
            _ => 3e-2,
        };
        for (c, f) in [3, 8, 20, 24].into_iter().flat_map(|c| [(c, Activation::Relu), (c, Activation::Relu6)])
        {
            // Residuals move the sum away from the kinks, where a rounding would choose between two gradients.
            let residual: Vec<f32> = (0..30 * c).map(|i| [-2.5, 3.0, 8.5][i * 7919 % 11 % 3]).collect();
            let quarter = |seed| random([c], seed).mul(&Tensor::full([c], 0.25, DType::F32, &Device::Cpu)?);
            let operands = || -> Result<[Tensor; 4]> {
                let residual = Tensor::from_slice(&residual, [2, 5, 3, c])?;
                Ok([random([2, 5, 3, c], 1), quarter(2)?, quarter(3)?, residual])
            };
            let values = |f: &dyn Fn(&[Tensor], &BatchNorm) -> Result<Tensor>| -> Result<Vec<Vec<f64>>> {
                let on_device = |t: Tensor| t.to_dtype(dtype)?.to_device(&device);
                let mut inputs = vec![];
                for operand in operands()? {
                    inputs.push(on_device(operand)?.variable());
                }
                let [weight, bias] = [Some(&inputs[1]), Some(&inputs[2])];
                let y = f(
                    &inputs,
                    &BatchNorm { weight, bias, training: true, eps: 1e-3, ..BatchNorm::default() },
                )?;
                y.backward_from(&on_device(random(*y.shape(), 9))?)?;
                let grads = inputs.iter().map(|t| t.grad().expect("a gradient"));
                let wide = |t: Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec::<f64>();
                std::iter::once(y.detach()).chain(grads).map(wide).collect()
            };
            let fused = values(&|t, norm| t[0].batch_norm_act(norm, f, Some(&t[3]))).expect("runs");
            let composed = values(&|t, norm| t[0].batch_norm(norm)?.add(&t[3])?.activate(f)).expect("runs");
            for (part, (fused, composed)) in fused.iter().zip(&composed).enumerate() {
                let largest = composed.iter().fold(0.0f64, |m, v| m.max(v.abs()));
                for (i, (a, b)) in fused.iter().zip(composed).enumerate() {
                    let what = format!("{dtype} on {device}, c {c}, {f:?}, result {part}, element {i}");
                    assert!((a - b).abs() <= tolerance * largest, "{what}: {a}, composed {b}");
                }
            }
        }
    }
}

#[test]
fn pooling_and_interpolation_match_the_cpu() {
    let x = [random([2, 7, 6, 8], 1)];
    let pool = Pool2dOptions { kernel: [3, 3], padding: [1, 1], ceil_mode: true, ..Pool2dOptions::default() };
    assert_agrees("max pooling", &x, |t| t[0].max_pool2d(&pool));
    assert_agrees("average pooling", &x, |t| t[0].avg_pool2d(&pool, true));
    assert_agrees("adaptive average", &x, |t| t[0].adaptive_avg_pool2d([3, 4]));
    assert_agrees("adaptive maximum", &x, |t| t[0].adaptive_max_pool2d([3, 4]));
    for kind in [GlobalPool::Avg, GlobalPool::Max, GlobalPool::FastMax] {
        assert_agrees("global pooling", &x, |t| t[0].global_pool(kind));
    }
    let how = Interpolation::Bicubic { align_corners: false, antialias: true };
    assert_agrees("interpolation", &x, |t| t[0].interpolate([4, 9], how));
}

#[test]
fn losses_match_the_cpu() {
    let logits = [random([5, 11], 1)];
    let indices = |device| Tensor::from_vec(vec![0i64, 10, 3, 3, 7], [5])?.to_device(&device);
    let labels = |device| {
        let values = (0..55).map(|i| (i % 10) as f32 / 10.0).collect();
        Tensor::from_vec(values, [5, 11])?.to_device(&device)
    };
    assert_agrees("softmax", &logits, |t| t[0].softmax(1));
    assert_agrees("log softmax", &logits, |t| t[0].log_softmax(1));
    assert_agrees("cross entropy", &logits, |t| t[0].cross_entropy(&indices(t[0].device())?, 0.1));
    assert_agrees("soft targets", &logits, |t| t[0].soft_target_cross_entropy(&labels(t[0].device())?));
    for sum_classes in [false, true] {
        assert_agrees("binary cross entropy", &logits, |t| {
            t[0].binary_cross_entropy(&labels(t[0].device())?, 2.0, sum_classes)
        });
    }
}

#[test]
fn counted_losses_return_top_1_and_top_k_counts() {
    // Ranks 1 (an equal logit of a lower class ranks higher), 0 and 3.
    let logits = [0.5f32, 2.0, 1.0, 2.0, 9.0, 2.0, 1.0, 2.0, -1.0, 2.0, 1.0, 2.0];
    let soft = [0.1f32, 0.2, 0.1, 0.6, 0.4, 0.1, 0.1, 0.4, 0.7, 0.1, 0.1, 0.1];
    for (device, dtype) in [(Device::Cpu, DType::F32), (device(), DType::F32), (device(), DType::F16)] {
        let on_device = |values: &[f32]| {
            let t = Tensor::from_slice(values, [3, 4])?.to_dtype(dtype)?;
            t.to_device(&device)
        };
        let check = || -> Result<()> {
            let (logits, soft) = (on_device(&logits)?.variable(), on_device(&soft)?);
            let target = Tensor::from_vec(vec![3i64, 0, 0], [3])?.to_device(&device)?;
            for (k, expected) in [(1, [1, 1]), (2, [1, 2]), (5, [1, 3])] {
                let (loss, counts) = logits.cross_entropy_counted(&target, 0.1, k)?;
                assert_eq!((loss.dtype(), counts.to_vec::<i64>()?), (DType::F32, expected.to_vec()), "{k}");
                let plain = logits.cross_entropy(&target, 0.1)?;
                assert_eq!((plain.dtype(), plain.item()?), (dtype, loss.to_dtype(dtype)?.item()?));
                let (_, counts) = logits.soft_target_cross_entropy_counted(&soft, k)?;
                assert_eq!(counts.to_vec::<i64>()?, expected, "soft, {k}");
                loss.backward()?;
            }
            assert_eq!(logits.grad().map(|grad| grad.dtype()), Some(dtype));
            Ok(())
        };
        check().expect("runs");
    }
}

#[test]
fn convolutions_match_the_cpu() {
    let options = Conv2dOptions { stride: [2, 1], padding: [1, 1], ..Conv2dOptions::default() };
    let inputs = [random([2, 7, 6, 8], 1), random([12, 3, 3, 4], 2)];
    assert_agrees("grouped", &inputs, |t| t[0].conv2d(&t[1], None, &Conv2dOptions { groups: 2, ..options }));
    let inputs = [random([2, 7, 6, 8], 1), random([8, 3, 3, 1], 2)];
    assert_agrees("depthwise", &inputs, |t| {
        t[0].conv2d(&t[1], None, &Conv2dOptions { groups: 8, ..options })
    });
}

#[test]
fn batch_norm_of_f16_accepts_parameters_in_f16_and_f32() {
    let device = device();
    let half = |t: Tensor| t.to_dtype(DType::F16).expect("f16");
    let on = |t: Tensor| t.to_device(&device).expect("memory");
    let (x, weight) = (on(half(random([4, 8], 1))), random([8], 2));
    let with = |weight: Tensor| {
        let norm = BatchNorm { weight: Some(&weight), training: true, eps: 1e-3, ..BatchNorm::default() };
        x.batch_norm(&norm).and_then(|y| y.to_device(&Device::Cpu))
    };
    let [wide, narrow] = [on(weight.clone()), on(half(weight))].map(|w| with(w).expect("either"));
    assert_eq!((wide.dtype(), narrow.dtype()), (DType::F16, DType::F16));
    let wide_values = wide.to_dtype(DType::F32).and_then(|t| t.to_vec::<f32>()).expect("f32");
    let narrow_values = narrow.to_dtype(DType::F32).and_then(|t| t.to_vec::<f32>()).expect("f32");
    assert!(wide_values.iter().zip(&narrow_values).all(|(a, b)| (a - b).abs() <= 5e-3), "{wide_values:?}");
}

#[test]
fn operands_on_two_devices_are_an_error() {
    let x = random([3, 4], 1).to_device(&device()).expect("memory");
    let target = Tensor::from_vec(vec![0i64, 1, 2], [3]).expect("memory");
    let Err(Error::Device { why, .. }) = x.cross_entropy(&target, 0.0) else {
        panic!("the target is on another device")
    };
    assert!(why.contains("one device"), "{why}");
    let labels =
        Tensor::from_vec(vec![0u8; 12], [3, 4]).and_then(|t| t.to_device(&device())).expect("memory");
    assert!(matches!(labels.softmax(1), Err(Error::DType { .. })));
}

#[test]
fn convolution_gradients_are_added_to_existing_gradients() {
    let inputs = [random([2, 6, 5, 8], 1), random([8, 3, 3, 8], 2), random([8, 1, 1, 8], 3)];
    let same = Conv2dOptions { padding: [1, 1], ..Conv2dOptions::default() };
    // Three branches: the identity, whose gradient comes first, and two convolutions.
    let block = |t: &[Tensor]| -> Result<Tensor> {
        let x = t[0].square()?;
        let sum = x.conv2d(&t[1], None, &same)?.add(&x.conv2d(&t[2], None, &Conv2dOptions::default())?)?;
        sum.mul(&x)
    };
    assert_agrees("a block of three branches", &inputs, block);
    // The gradient of the identity is the upstream gradient itself, which must not change.
    let inputs: Vec<Tensor> =
        inputs.iter().map(|t| t.to_device(&device()).expect("memory").variable()).collect();
    let x = inputs[0].square().expect("runs");
    let y = x.conv2d(&inputs[1], None, &same).and_then(|y| y.add(&x)).expect("runs");
    let upstream = random(*y.shape(), 9).to_device(&device()).expect("memory");
    y.backward_from(&upstream).expect("has gradients");
    let (got, want) = (upstream.to_vec::<f32>(), random(*y.shape(), 9).to_vec::<f32>());
    assert_eq!(got.expect("f32"), want.expect("f32"));
}

#[test]
fn relu_of_two_normalized_convolutions_matches_the_cpu() {
    for c in [8, 12] {
        let inputs = [
            random([2, 6, 5, 8], 1),
            random([c, 3, 3, 8], 2),
            random([c], 3),
            random([c], 4),
            random([c, 1, 1, 8], 5),
            random([c], 6),
            random([c], 7),
        ];
        for training in [true, false] {
            assert_agrees("relu of two normalized convolutions", &inputs, |t| {
                let vector = |v: f64| Tensor::full([c], v, DType::F32, &t[0].device());
                let running = [(vector(0.1)?, vector(40.0)?), (vector(-0.2)?, vector(9.0)?)];
                let norm = |p: usize| BatchNorm {
                    weight: Some(&t[2 + 3 * p]),
                    bias: Some(&t[3 + 3 * p]),
                    running: Some((&running[p].0, &running[p].1)),
                    training,
                    momentum: 0.1,
                    eps: 1e-3,
                    ..BatchNorm::default()
                };
                let same = Conv2dOptions { padding: [1, 1], ..Conv2dOptions::default() };
                let options = Conv2dOptions::default();
                let shortcut = ConvBatchNorm { x: &t[0], weight: &t[4], options, norm: norm(1) };
                ConvBatchNorm { x: &t[0], weight: &t[1], options: same, norm: norm(0) }.add_relu(&shortcut)
            });
        }
    }
}

#[test]
fn second_convolution_gradient_is_rounded_once() {
    let (x, w) = (random([1, 4, 4, 8], 1), random([8, 1, 1, 8], 2));
    let on_device = |t: &Tensor| t.to_dtype(DType::F16)?.to_device(&device());
    let (x, w) = (on_device(&x).expect("memory").variable(), on_device(&w).expect("memory"));
    let branch = x.square().expect("runs");
    let conv = branch.conv2d(&w, None, &Conv2dOptions::default()).expect("runs");
    // The newer operation's gradient comes first, and has no other owner.
    let y = branch.mul_scalar(1.0).and_then(|b| conv.add(&b)).expect("runs");
    let upstream = on_device(&random(*y.shape(), 9)).expect("memory");
    let got = crate::gradients(&[(&y, &upstream)], &[&branch], false).expect("has gradients").remove(0);
    let wide = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec::<f32>();
    let (dy, w) = (wide(&upstream).expect("f16"), wide(&w).expect("f16"));
    for (i, got) in wide(&got.expect("a gradient")).expect("f16").into_iter().enumerate() {
        let (pixel, channel) = (i / 8, i % 8);
        let sum: f64 = (0..8).map(|k| f64::from(dy[pixel * 8 + k]) * f64::from(w[k * 8 + channel])).sum();
        let exact = sum + f64::from(dy[i]);
        let rounded = half::f16::from_f64(exact).to_f32();
        // The sum in f32 may be on the other side of a tie.
        let spacing = f64::from(half::f16::from_f64(exact.abs()).to_f32()) / 1024.0;
        assert!(
            got == rounded || (f64::from(got) - exact).abs() <= 0.501 * spacing,
            "element {i}: {got}, not {rounded}"
        );
    }
}

#[test]
fn cumulative_running_statistics_count_replays_of_a_graph() {
    let run = |device: Device| -> Result<(Vec<i64>, Vec<f32>)> {
        let x = random([4, 3, 8], 1).to_device(&device)?;
        let batches = Tensor::zeros((), DType::I64, &device)?;
        let (mean, var) = (random([8], 2).to_device(&device)?, Tensor::ones([8], DType::F32, &device)?);
        let norm = BatchNorm {
            running: Some((&mean, &var)),
            num_batches_tracked: Some(&batches),
            training: true,
            eps: 1e-3,
            ..BatchNorm::default()
        };
        // Another batch each time: x is doubled in place.
        let step = || {
            x.copy_from(&x.add(&x)?)?;
            x.batch_norm(&norm).map(drop)
        };
        step()?;
        match device {
            Device::Cpu => (0..2).try_for_each(|_| step())?,
            Device::Cuda(_) => {
                let graph = crate::cuda::CudaGraph::capture(&device, step)?;
                (0..2).try_for_each(|_| graph.replay())?;
            }
        }
        Ok((batches.to_vec::<i64>()?, [mean.to_vec::<f32>()?, var.to_vec::<f32>()?].concat()))
    };
    let [(cpu_count, cpu), (gpu_count, gpu)] =
        [Device::Cpu, device()].map(|device| run(device).expect("runs"));
    assert_eq!((cpu_count, gpu_count), (vec![3], vec![3]));
    for (i, (a, b)) in cpu.iter().zip(&gpu).enumerate() {
        assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "element {i}: {b}, not {a}");
    }
}
