//! Every optimizer against PyTorch and timm, and on a CUDA device against the CPU; the number of launches of an update, and errors.
//!
//! `FORNAX_TEST_DEVICES` selects the device; the default is the emulated one in checked mode.
//!
//! A separate process, since kernels are compiled with or without checks when they are first used.
use fornax::optim::{KwargValue, OptimizerOptions, Parameter, create_optimizer, optimizer_names, rule};
use fornax_engine::{
    DType, Device, GradClip, GradientRule, LossScaling, Result, Tensor, UpdateOperands, UpdateRule,
    UpdateState, cuda, update,
};
use fornax_kernels::emulator;
use fornax_tests::golden::{Topic, optim_trajectories};
use fornax_tests::sweep;
use fornax_tests::test_devices;
use std::path::Path;
use std::sync::RwLock;

/// Launch counts are global: a test that reads them excludes all others on the device.
static LAUNCHES: RwLock<()> = RwLock::new(());

fn gpu() -> Device {
    test_devices::device(true)
}

/// Optimizers that run on the CUDA device in every test run: plain, with reductions, factored, and wrapped.
const USUAL: [&str; 6] = ["sgd", "adamw", "lamb", "cadamp", "adafactor", "lookahead_adan"];

/// Every optimizer name in a full sweep, otherwise [`USUAL`].
fn names() -> impl Iterator<Item = String> {
    let all = || optimizer_names().chain(["lookahead_nadam", "lookahead_adan"]);
    assert!(USUAL.iter().all(|name| all().any(|known| known == *name)));
    all().filter(|name| sweep::is_full() || USUAL.contains(name)).map(String::from)
}

fn options() -> OptimizerOptions {
    OptimizerOptions { lr: Some(0.02), ..OptimizerOptions::default() }
}

/// Pseudo-random numbers, the same on every device.
fn values(shape: &[usize], seed: usize, device: &Device) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 104_729 + 17) % 10_007) as f32 / 5003.5 - 1.0;
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_vec(values, shape).and_then(|t| t.to_device(device)).expect("memory")
}

/// Shapes that cover every chunk layout: one element, rows of odd and even length, long rows, several chunks.
const SHAPES: [&[usize]; 7] = [&[1], &[37], &[6, 5], &[8, 3, 3, 4], &[3, 1100], &[40, 500], &[20, 3, 3, 19]];

/// A parameter with all optional state of an update.
struct TestParameter {
    weights: Tensor,
    ema: Tensor,
    moments: Vec<Tensor>,
    param_scalar: Option<Tensor>,
    factors: Option<[Tensor; 2]>,
}

impl TestParameter {
    fn new(i: usize, rule: &UpdateRule, device: &Device) -> Result<TestParameter> {
        let (shape, spec) = (SHAPES[i], rule.state_spec());
        let weights = values(shape, i, device).variable();
        weights.cached_cast(half_dtype(i))?;
        let full = |first: f32| Tensor::full(shape, f64::from(first), DType::F32, device);
        let mut moments = spec.moments.iter().map(|(_, first)| full(*first)).collect::<Result<Vec<_>>>()?;
        let zeros = |shape: [usize; 2]| Tensor::zeros(shape, DType::F32, device);
        let factors = match spec.factored.and_then(|how| how.axes(shape)) {
            Some([a, b, c]) => Some([zeros([a, b])?, zeros([b, c])?]),
            None => None,
        };
        if factors.is_some() {
            moments[0] = Tensor::zeros([0], DType::F32, device)?;
        }
        let param_scalar = spec.param_scalar.map(|_| Tensor::zeros([2], DType::F32, device)).transpose()?;
        Ok(TestParameter { weights, ema: values(shape, i + 1, device), moments, param_scalar, factors })
    }

    fn updated<'a>(&'a self, i: usize, gradient: &'a Tensor) -> UpdateOperands<'a> {
        UpdateOperands {
            moments: self.moments.iter().collect(),
            param_scalar: self.param_scalar.as_ref(),
            factors: self.factors.as_ref().map(|[rows, columns]| [rows, columns]),
            ema: Some(&self.ema),
            weight_decay: if i % 3 == 1 { 0.0 } else { 0.1 },
            lr_scale: 1.0 / (1 + i) as f32,
            adaptive_clip: i != 2,
            ..UpdateOperands::new(&self.weights, gradient)
        }
    }
}

/// The dtype of a parameter's low-precision copy.
fn half_dtype(i: usize) -> DType {
    [DType::F16, DType::BF16][i % 2]
}

/// Weights, EMAs and low-precision copies after seven updates.
fn run(rule: &UpdateRule, gradients: GradientRule, device: &Device) -> Result<Vec<Vec<f32>>> {
    run_with(rule, gradients, device, |gradient| Ok(gradient.clone()))
}

/// [`run`] with gradients converted by `convert`.
fn run_with(
    rule: &UpdateRule,
    gradients: GradientRule,
    device: &Device,
    convert: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Vec<Vec<f32>>> {
    let state = UpdateState::new(gradients, rule, device)?;
    let all = (0..SHAPES.len()).map(|i| TestParameter::new(i, rule, device)).collect::<Result<Vec<_>>>()?;
    for step in 0..7 {
        let gradient =
            |i: usize| convert(&values(SHAPES[i], 31 + 7 * i + 13 * step, device).mul_scalar(16.0)?);
        let now = (0..all.len()).map(gradient).collect::<Result<Vec<_>>>()?;
        let updated: Vec<UpdateOperands> =
            all.iter().enumerate().map(|(i, p)| p.updated(i, &now[i])).collect();
        state.set_lr(0.02 / (1 + step) as f64, 0.9)?;
        update(rule, &updated, &state)?;
    }
    let mut results = vec![];
    for (i, TestParameter { weights, ema, .. }) in all.iter().enumerate() {
        results.extend([weights.to_vec::<f32>()?, ema.to_vec::<f32>()?]);
        let copy = weights.cached_cast(half_dtype(i))?;
        results.push(copy.to_dtype(DType::F32)?.to_vec::<f32>()?);
    }
    Ok(results)
}

/// Every optimizer name against PyTorch and timm (`tests/data/optimizers.py`). AdaHessian and Muon have tests of their own.
#[test]
fn every_optimizer_matches_timm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let topic = Topic::load(&folder, "optimizers", Device::Cpu).expect("the file");
    let cases = optim_trajectories::check(&topic).unwrap_or_else(|e| panic!("{e}"));
    let separate = |name: &str| name == "adahessian" || name.ends_with("muon");
    assert!(cases > optimizer_names().filter(|name| !separate(name)).count());
    for name in optimizer_names().filter(|name| !separate(name)) {
        let known = topic.cases().expect("cases").iter().any(|case| case.json["optimizer"] == name);
        assert!(known, "{name} has no case");
    }
}

/// Clipping by value disables the handwritten CPU loops; with a limit that clips nothing, the formulas run instead.
#[test]
fn cpu_loops_match_the_update_formulas() {
    for name in ["sgd", "momentum", "adamw"] {
        let rule = rule(name, &options()).expect("an optimizer").update;
        let [by_loop, by_formula] = [None, Some(GradClip::Value(1e9))]
            .map(|clip| run(&rule, GradientRule { scaling: None, clip }, &Device::Cpu).expect(name));
        for (a, b) in by_loop.iter().flatten().zip(by_formula.iter().flatten()) {
            assert!((a - b).abs() <= 1e-6 + 8.2e-3 * a.abs(), "{name}: {a} and {b}");
        }
        // Weights, without EMAs and low-precision copies.
        for (a, b) in by_loop.iter().step_by(3).flatten().zip(by_formula.iter().step_by(3).flatten()) {
            assert!((a - b).abs() <= 1e-6 + 2e-6 * a.abs(), "{name}: {a} and {b}");
        }
    }
}

#[test]
fn every_optimizer_on_the_gpu_matches_the_cpu() {
    let _shared = LAUNCHES.read().unwrap_or_else(|e| e.into_inner());
    let gpu = gpu();
    let scaling = Some(LossScaling { init_scale: 16.0, growth_interval: 3, ..LossScaling::default() });
    let clips = [None, Some(GradClip::Norm(0.5)), Some(GradClip::Value(0.3)), Some(GradClip::Agc(0.05))];
    // AdaHessian needs Hessian diagonals; it has separate tests.
    for (i, name) in names().filter(|name| name != "adahessian").enumerate() {
        let rule = rule(&name, &options()).expect("an optimizer").update;
        let gradients =
            GradientRule { scaling: scaling.filter(|_| half_dtype(i) == DType::F16), clip: clips[i % 4] };
        let [on_cpu, on_gpu] = [Device::Cpu, gpu].map(|device| run(&rule, gradients, &device).expect(&name));
        assert_eq!(emulator::take_error(), None, "{name}");
        for (which, (cpu, gpu)) in on_cpu.iter().zip(&on_gpu).enumerate() {
            let half = if which % 3 == 2 { 8.2e-3 } else { 0.0 };
            for (k, (a, b)) in cpu.iter().zip(gpu).enumerate() {
                let near = (a - b).abs() <= 2e-5 + (1e-4 + half) * a.abs();
                assert!(near, "{name} {gradients:?}: array {which}, element {k}: {a} and {b}");
            }
        }
    }
}

#[test]
fn half_precision_gradients_update_as_their_f32_casts() {
    let _shared = LAUNCHES.read().unwrap_or_else(|e| e.into_inner());
    let gpu = gpu();
    let scaling = Some(LossScaling { init_scale: 16.0, ..LossScaling::default() });
    let clips = [None, Some(GradClip::Norm(0.5)), Some(GradClip::Value(0.3)), Some(GradClip::Agc(0.05))];
    let all = names().filter(|name| name != "adahessian").enumerate();
    for (i, name) in all.filter(|(i, _)| sweep::is_full() || i.is_multiple_of(2)) {
        let rule = rule(&name, &options()).expect("an optimizer").update;
        let gradients = GradientRule { scaling, clip: clips[i % 4] };
        for device in [Device::Cpu, gpu] {
            let half = |g: &Tensor| g.to_dtype(half_dtype(i));
            let got = run_with(&rule, gradients, &device, half).expect(&name);
            let want = run_with(&rule, gradients, &device, |g| half(g)?.to_dtype(DType::F32)).expect(&name);
            assert_eq!(got, want, "{name} {gradients:?} on {device}");
        }
    }
}

/// The shapes of ResNet-50's 161 parameters, with 1/16 of its channels.
fn resnet50() -> Vec<Vec<usize>> {
    let mut shapes = vec![vec![4, 7, 7, 3], vec![4], vec![4]];
    let mut input = 4;
    for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        let width = 4 << stage;
        for block in 0..blocks {
            for (out, kernel, from) in [(width, 1, input), (width, 3, width), (4 * width, 1, width)] {
                shapes.extend([vec![out, kernel, kernel, from], vec![out], vec![out]]);
            }
            if block == 0 {
                shapes.extend([vec![4 * width, 1, 1, input], vec![4 * width], vec![4 * width]]);
            }
            input = 4 * width;
        }
    }
    shapes.extend([vec![125, input], vec![125]]);
    assert_eq!(shapes.len(), 161);
    shapes
}

#[test]
fn update_is_at_most_three_launches() {
    let _alone = LAUNCHES.write().unwrap_or_else(|e| e.into_inner());
    let (gpu, shapes) = (gpu(), resnet50());
    // Muon's second pass has a few launches per weight matrix.
    for name in names().filter(|name| !name.ends_with("muon")) {
        for clip in [None, Some(GradClip::Norm(1.0))] {
            let parameter = |(i, shape): (usize, &Vec<usize>)| {
                let tensor = values(shape, i, &gpu).variable();
                tensor.set_grad(Some(values(shape, i + 1, &gpu)));
                Parameter { weight_decay: 0.01, ..Parameter::new(i.to_string(), tensor) }
            };
            let parameters = shapes.iter().enumerate().map(parameter).collect();
            let gradients = GradientRule { scaling: None, clip };
            let optimizer = create_optimizer(&name, parameters, &options(), gradients).expect(&name);
            optimizer.set_lr(0.01).expect("a copy");
            let before = cuda::launch_count(gpu);
            optimizer.step().expect("updates");
            let launches = cuda::launch_count(gpu) - before;
            // Clipping adds a launch that computes the gradient norm. LAMB always has it.
            let norm = u64::from(clip.is_some() && !optimizer.rule().name().contains("lamb"));
            assert!(launches <= 3 + norm, "{name} with {clip:?}: {launches} launches");
        }
    }
}

#[test]
fn muon_on_the_gpu_matches_the_cpu() {
    let _shared = LAUNCHES.read().unwrap_or_else(|e| e.into_inner());
    let gpu = gpu();
    let scaling = Some(LossScaling { init_scale: 16.0, ..LossScaling::default() });
    for name in ["muon", "nadamuon"] {
        let weights = |device: &Device| -> Result<Vec<Vec<f32>>> {
            let parameter = |i: usize| {
                let weight_decay = if SHAPES[i].len() > 1 { 0.1 } else { 0.0 };
                let tensor = values(SHAPES[i], i, device).variable();
                Parameter { weight_decay, ..Parameter::new(i.to_string(), tensor) }
            };
            let parameters: Vec<Parameter> = (0..SHAPES.len()).map(parameter).collect();
            let gradients = GradientRule { scaling, clip: Some(GradClip::Norm(0.5)) };
            let optimizer = create_optimizer(name, parameters.clone(), &options(), gradients).expect(name);
            for step in 0..3 {
                for (i, p) in parameters.iter().enumerate() {
                    p.tensor.set_grad(Some(values(SHAPES[i], 31 + 7 * i + 13 * step, device)));
                }
                optimizer.update(0.02).expect(name);
            }
            parameters.iter().map(|p| p.tensor.to_vec::<f32>()).collect()
        };
        let (on_cpu, on_gpu) = (weights(&Device::Cpu).expect(name), weights(&gpu).expect(name));
        assert_eq!(emulator::take_error(), None, "{name}");
        for ((i, cpu), gpu) in on_cpu.iter().enumerate().zip(&on_gpu) {
            // Matrices: sums of the iteration are rounded to bf16 in another order.
            let tolerance = if SHAPES[i].len() > 1 { 8e-3 } else { 1e-5 };
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
            let distance = norm(&mut cpu.iter().zip(gpu).map(|(a, b)| a - b));
            let limit = tolerance * norm(&mut cpu.iter().copied());
            assert!(distance <= limit, "{name} {:?}: {distance} above {limit}", SHAPES[i]);
        }
    }
}

#[test]
fn unknown_optimizers_and_options_are_rejected() {
    let error = |name: &str, options: OptimizerOptions| {
        rule(name, &options).expect_err("invalid options").to_string()
    };
    assert!(error("adamm", options()).contains("did you mean \"adam\"?"), "{}", error("adamm", options()));
    let momentum = OptimizerOptions { momentum: Some(0.9), ..options() };
    assert!(error("adamw", momentum).contains("adamw has no momentum"));
    let mut unknown = options();
    unknown.kwargs.insert("nesterof".into(), KwargValue::Bool(true));
    assert!(error("sgd", unknown.clone()).contains("nesterov=true"), "{}", error("sgd", unknown));
    let mut wrong = options();
    wrong.kwargs.insert("amsgrad".into(), KwargValue::Number(1.0));
    assert!(error("adam", wrong).contains("amsgrad"));
    let betas = OptimizerOptions { betas: Some(vec![0.9]), ..options() };
    assert!(error("adam", betas).contains("there are 2"));
    assert!(error("adamc", OptimizerOptions::default()).contains("highest learning rate"));
}
