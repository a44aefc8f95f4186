//! Optimizer updates of many parameters in one call, on a CUDA device (`FORNAX_TEST_DEVICES`, default the emulated one) and on
//! the CPU.
use fornax::optim::{OptimizerOptions, rule};
use fornax_engine::dtype::{bf16, f16};
use fornax_engine::{
    DType, Device, GradClip, GradientRule, LossScaling, Tensor, UpdateOperands, UpdateRule, UpdateState,
    UpdateStats, update,
};
use fornax_tests::sweep;
use fornax_tests::test_devices;

fn named(name: &str) -> UpdateRule {
    rule(name, &OptimizerOptions::default()).expect("an optimizer").update
}

fn sgd() -> UpdateRule {
    named("sgd")
}

/// Lengths of the parameters: empty, shorter than a vector, longer than a chunk, and more parameters than fit into one launch.
fn lengths() -> Vec<usize> {
    let mut lengths = vec![5, 0, 64, 40_001, 3];
    lengths.extend(std::iter::repeat_n(9, 340));
    lengths
}

fn random(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1021) as f32 / 256.0 - 2.0).collect()
}

/// Parameters and their optimizer state on a device.
struct TestModel {
    weights: Vec<Tensor>,
    moments: Vec<Vec<Tensor>>,
    ema: Vec<Tensor>,
    state: UpdateState,
    /// Offset of each tensor in its storage in elements, which makes it unaligned to 16 bytes.
    shift: usize,
    device: Device,
}

impl TestModel {
    fn new(device: Device, rule: &UpdateRule, gradients: GradientRule, shift: usize) -> TestModel {
        let make = |seed: usize| -> Vec<Tensor> {
            lengths()
                .iter()
                .enumerate()
                .map(|(i, n)| tensor_at(&random(*n, i + seed), shift, &device))
                .collect()
        };
        let zeros =
            || lengths().iter().map(|n| Tensor::zeros([*n], DType::F32, &device).expect("memory")).collect();
        TestModel {
            weights: make(1).iter().map(Tensor::variable).collect(),
            moments: rule.state_spec().moments.iter().map(|_| zeros()).collect(),
            ema: make(2),
            state: UpdateState::new(gradients, rule, &device).expect("memory"),
            shift,
            device,
        }
    }

    /// One update with gradients of a seed; the first element is `odd`.
    fn step(&self, rule: &UpdateRule, seed: usize, odd: f32, round: Option<DType>) {
        let gradients: Vec<Tensor> = (self.weights.iter().enumerate())
            .map(|(i, w)| {
                let mut values = random(w.numel(), 1000 * seed + i);
                if i == 0 {
                    values[0] = odd;
                }
                tensor_at(&values, self.shift, &self.device)
            })
            .collect();
        let parameters: Vec<UpdateOperands> = (0..self.weights.len())
            .map(|i| UpdateOperands {
                moments: self.moments.iter().map(|of| &of[i]).collect(),
                ema: (i % 3 == 0).then_some(&self.ema[i]),
                weight_decay: if i % 2 == 0 { 1e-2 } else { 0.0 },
                round_to: round,
                ..UpdateOperands::new(&self.weights[i], &gradients[i])
            })
            .collect();
        self.state.set_lr(0.1 / seed as f64, 0.75).expect("a copy");
        update(rule, &parameters, &self.state).expect("updates");
    }

    fn values(&self) -> Vec<Vec<f32>> {
        let all = self.weights.iter().chain(self.moments.iter().flatten()).chain(&self.ema);
        all.map(|t| t.to_vec::<f32>().expect("f32")).collect()
    }
}

/// A tensor on a device, `shift` elements into its storage.
fn tensor_at(values: &[f32], shift: usize, device: &Device) -> Tensor {
    let mut all = vec![0.0; shift];
    all.extend(values);
    let whole = Tensor::from_slice(&all, [all.len()]).and_then(|t| t.to_device(device)).expect("memory");
    whole.narrow(0, shift, values.len()).expect("a part")
}

fn device() -> Device {
    test_devices::device(false)
}

#[track_caller]
fn assert_same(a: &TestModel, b: &TestModel, what: &str) {
    for (i, (a, b)) in a.values().iter().zip(b.values()).enumerate() {
        for (x, y) in a.iter().zip(&b) {
            assert!((x - y).abs() <= 1e-6 * (1.0 + y.abs()), "{what}: tensor {i} has {x}, the CPU {y}");
        }
    }
}

#[test]
fn device_updates_match_the_cpu() {
    let scaled = GradientRule { scaling: Some(LossScaling::default()), clip: Some(GradClip::Norm(30.0)) };
    for name in ["sgd", "momentum", "adamw"] {
        let rule = named(name);
        for gradients in [GradientRule::default(), scaled] {
            // Aligned or unaligned storage: by default each in one of the two rules.
            let is_scaled = usize::from(gradients.scaling.is_some());
            for shift in if sweep::is_full() { vec![0, 1] } else { vec![is_scaled] } {
                let models = [device(), Device::Cpu].map(|d| TestModel::new(d, &rule, gradients, shift));
                for model in &models {
                    (1..4).for_each(|seed| model.step(&rule, seed, 0.25, None));
                }
                let [ours, theirs] = &models;
                assert_same(ours, theirs, &format!("{name} {gradients:?} shift {shift}"));
                let [a, b] = [ours, theirs].map(|m| m.state.stats().expect("a report"));
                assert_eq!((a.skipped, a.loss_scale), (b.skipped, b.loss_scale));
                if let (Some(a), Some(b)) = (a.grad_norm, b.grad_norm) {
                    assert!((a - b).abs() <= 1e-6 * b, "norms {a} and {b}");
                }
                assert_eq!(ours.state.updates().to_vec::<i64>().expect("i64"), [3]);
            }
        }
    }
}

#[test]
fn overflow_skips_the_update_and_halves_the_loss_scale() {
    let scaling =
        LossScaling { init_scale: 8.0, growth_interval: 2, min_scale: 2.0, ..LossScaling::default() };
    let gradients = GradientRule { scaling: Some(scaling), clip: None };
    let adamw = named("adamw");
    for device in [device(), Device::Cpu] {
        let model = TestModel::new(device, &adamw, gradients, 0);
        let report = || model.state.stats().expect("a report");
        let scale_after = |seed, odd| {
            model.step(&adamw, seed, odd, None);
            (report().loss_scale, report().skipped)
        };
        assert_eq!(scale_after(1, 0.5), (8.0, false));
        let before = model.values();
        for odd in [f32::INFINITY, f32::NAN] {
            let scale = report().loss_scale;
            assert_eq!(scale_after(2, odd), (scale / 2.0, true), "{odd} on {device}");
        }
        assert_eq!(scale_after(2, f32::NEG_INFINITY), (2.0, true), "no lower than the floor");
        let after = model.values();
        let others = before.len() - model.ema.len();
        assert_eq!(after[..others], before[..others], "a skipped update changes no weights on {device}");
        // The EMA of every third parameter, after three skipped updates with unchanged weights.
        for (i, (new, old)) in after[others..].iter().zip(&before[others..]).enumerate() {
            for (k, (new, old)) in new.iter().zip(old).enumerate() {
                let weight = before[i][k];
                let expected = if i % 3 == 0 { weight + 0.75f32.powi(3) * (old - weight) } else { *old };
                assert!((new - expected).abs() <= 1e-6 * (1.0 + expected.abs()), "{new}, not {expected}");
            }
        }
        assert_eq!(model.state.updates().to_vec::<i64>().expect("i64"), [1]);
        assert_eq!(scale_after(3, 0.5), (2.0, false));
        assert_eq!(scale_after(4, 0.5), (4.0, false), "two good updates");
        assert_eq!(scale_after(5, 0.5), (4.0, false));
        assert_ne!(model.values(), before);
    }
}

#[test]
fn loss_scaling_does_not_change_the_update() {
    for device in [device(), Device::Cpu] {
        let plain = TestModel::new(device, &sgd(), GradientRule::default(), 0);
        plain.step(&sgd(), 1, 0.5, None);
        let scaling = Some(LossScaling { init_scale: 1.0, ..LossScaling::default() });
        let scaled = TestModel::new(device, &sgd(), GradientRule { scaling, clip: None }, 0);
        scaled.step(&sgd(), 1, 0.5, None);
        assert_eq!(plain.values(), scaled.values());
        let UpdateStats { grad_norm: norm, skipped, loss_scale } = scaled.state.stats().expect("a report");
        let squares = |i: usize, n: usize| -> f64 {
            let mut values = random(n, 1000 + i);
            if i == 0 {
                values[0] = 0.5;
            }
            values.iter().map(|v| f64::from(*v).powi(2)).sum()
        };
        let expected = lengths().iter().enumerate().map(|(i, n)| squares(i, *n)).sum::<f64>().sqrt() as f32;
        let norm = norm.expect("loss scaling computes the norm");
        assert!((norm - expected).abs() < 1e-5 * expected, "{norm}, not {expected}");
        assert_eq!((skipped, loss_scale), (false, 1.0));
    }
}

#[test]
fn update_writes_the_autocast_cache() {
    for device in [device(), Device::Cpu] {
        for dtype in [DType::F16, DType::BF16] {
            let rounded = |v: f32| match dtype {
                DType::F16 => f16::from_f32(v).to_f32(),
                _ => bf16::from_f32(v).to_f32(),
            };
            for round in [None, Some(dtype)] {
                let model = TestModel::new(device, &sgd(), GradientRule::default(), 0);
                let copies: Vec<Tensor> =
                    model.weights.iter().map(|w| w.cached_cast(dtype).expect("a copy")).collect();
                model.step(&sgd(), 1, 0.5, round);
                for (weights, copy) in model.weights.iter().zip(&copies) {
                    // The copy was made before the update, which wrote into it.
                    let copy = copy.to_dtype(DType::F32).and_then(|c| c.to_vec::<f32>()).expect("floats");
                    let weights = weights.to_vec::<f32>().expect("f32");
                    assert_eq!(copy, weights.iter().map(|v| rounded(*v)).collect::<Vec<_>>());
                    assert!(round.is_none() || copy == weights);
                }
                let first = &model.weights[0];
                first
                    .copy_from(&Tensor::full([5], 0.5, DType::F32, &device).expect("memory"))
                    .expect("a copy");
                let copy = first.cached_cast(dtype).and_then(|c| c.to_dtype(DType::F32)).expect("a copy");
                assert_eq!(
                    copy.to_vec::<f32>().expect("f32"),
                    [0.5; 5],
                    "another change invalidates the cache"
                );
            }
        }
    }
}
