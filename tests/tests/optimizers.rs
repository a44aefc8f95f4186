//! Every optimizer on the emulated device in checked mode, against the CPU; and how many kernels an update launches.
//!
//! A process of its own: kernels are compiled with or without checks when they are first used.
use fornax::optim::{KwargValue, OptimizerOptions, Parameter, create_optimizer, optimizer_names, rule};
use fornax_engine::{
    DType, Device, GradClip, GradientRule, LossScaling, Result, Tensor, UpdateOperands, UpdateRule,
    UpdateState, cuda, update,
};
use fornax_kernels::emulator::{self, EmulatorOptions};
use fornax_tests::golden::{Topic, optim_trajectories};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

const GPU: Device = Device::Cuda(0);

/// Counts are of the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    let guard = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    emulator::load(&EmulatorOptions { checked: true, ..EmulatorOptions::default() })
        .expect("the emulated device");
    guard
}

fn names() -> impl Iterator<Item = String> {
    optimizer_names().map(String::from).chain(["lookahead_nadam".into(), "lookahead_adan".into()])
}

fn options() -> OptimizerOptions {
    OptimizerOptions { lr: Some(0.02), ..OptimizerOptions::default() }
}

/// Numbers that look random, and are the same everywhere.
fn values(shape: &[usize], seed: usize, device: &Device) -> Tensor {
    let value = |i: usize| ((i * 7919 + seed * 104_729 + 17) % 10_007) as f32 / 5003.5 - 1.0;
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_vec(values, shape).and_then(|t| t.to_device(device)).expect("memory")
}

/// Parameters that meet every way of cutting: one element, rows of an odd length, rows in packs, long rows, several chunks.
const SHAPES: [&[usize]; 7] = [&[1], &[37], &[6, 5], &[8, 3, 3, 4], &[3, 1100], &[40, 500], &[20, 3, 3, 19]];

/// A parameter with all that an update can be given.
struct TestParameter {
    weights: Tensor,
    ema: Tensor,
    moments: Vec<Tensor>,
    kept: Option<Tensor>,
    factors: Option<[Tensor; 2]>,
}

impl TestParameter {
    fn new(i: usize, rule: &UpdateRule, device: &Device) -> Result<TestParameter> {
        let (shape, keeps) = (SHAPES[i], rule.state_spec());
        let weights = values(shape, i, device).variable();
        weights.cached_cast(half(i))?;
        let full = |first: f32| Tensor::full(shape, f64::from(first), DType::F32, device);
        let mut moments = keeps.moments.iter().map(|(_, first)| full(*first)).collect::<Result<Vec<_>>>()?;
        let zeros = |shape: [usize; 2]| Tensor::zeros(shape, DType::F32, device);
        let factors = match keeps.factored.and_then(|how| how.axes(shape)) {
            Some([a, b, c]) => Some([zeros([a, b])?, zeros([b, c])?]),
            None => None,
        };
        if factors.is_some() {
            moments[0] = Tensor::zeros([0], DType::F32, device)?;
        }
        let kept = keeps.param_scalar.map(|_| Tensor::zeros([2], DType::F32, device)).transpose()?;
        Ok(TestParameter { weights, ema: values(shape, i + 1, device), moments, kept, factors })
    }

    fn updated<'a>(&'a self, i: usize, gradient: &'a Tensor) -> UpdateOperands<'a> {
        UpdateOperands {
            moments: self.moments.iter().collect(),
            param_scalar: self.kept.as_ref(),
            factors: self.factors.as_ref().map(|[rows, columns]| [rows, columns]),
            ema: Some(&self.ema),
            weight_decay: if i % 3 == 1 { 0.0 } else { 0.1 },
            lr_scale: 1.0 / (1 + i) as f32,
            adaptive_clip: i != 2,
            ..UpdateOperands::new(&self.weights, gradient)
        }
    }
}

/// The dtype of a parameter's copy.
fn half(i: usize) -> DType {
    [DType::F16, DType::BF16][i % 2]
}

/// What some updates leave of weights, averages and half-precision copies.
fn run(rule: &UpdateRule, gradients: GradientRule, device: &Device) -> Result<Vec<Vec<f32>>> {
    let state = UpdateState::new(gradients, rule, device)?;
    let all = (0..SHAPES.len()).map(|i| TestParameter::new(i, rule, device)).collect::<Result<Vec<_>>>()?;
    for step in 0..7 {
        let gradient = |i: usize| values(SHAPES[i], 31 + 7 * i + 13 * step, device).mul_scalar(16.0);
        let now = (0..all.len()).map(gradient).collect::<Result<Vec<_>>>()?;
        let updated: Vec<UpdateOperands> =
            all.iter().enumerate().map(|(i, p)| p.updated(i, &now[i])).collect();
        state.set_lr(0.02 / (1 + step) as f64, 0.9)?;
        update(rule, &updated, &state)?;
    }
    let mut left = vec![];
    for (i, TestParameter { weights, ema, .. }) in all.iter().enumerate() {
        left.extend([weights.to_vec::<f32>()?, ema.to_vec::<f32>()?]);
        let copy = weights.cached_cast(half(i))?;
        left.push(copy.to_dtype(DType::F32)?.to_vec::<f32>()?);
    }
    Ok(left)
}

/// Every name, with PyTorch's and timm's numbers (`tests/data/optimizers.py`).
#[test]
fn every_optimizer_goes_where_it_goes_in_timm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let topic = Topic::load(&folder, "optimizers", Device::Cpu).expect("the file");
    let cases = optim_trajectories::check(&topic).unwrap_or_else(|e| panic!("{e}"));
    assert!(cases > optimizer_names().count());
    for name in optimizer_names().filter(|name| *name != "adahessian") {
        let known = topic.cases().expect("cases").iter().any(|case| case.json["optimizer"] == name);
        assert!(known, "{name} has no case");
    }
}

/// Where the CPU has a loop of its own, a clamp that clamps nothing has it run the formula instead.
#[test]
fn loops_do_what_their_formulas_say() {
    for name in ["sgd", "momentum", "adamw"] {
        let rule = rule(name, &options()).expect("an optimizer").update;
        let [by_loop, by_formula] = [None, Some(GradClip::Value(1e9))]
            .map(|clip| run(&rule, GradientRule { scaling: None, clip }, &Device::Cpu).expect(name));
        for (a, b) in by_loop.iter().flatten().zip(by_formula.iter().flatten()) {
            assert!((a - b).abs() <= 1e-6 + 8.2e-3 * a.abs(), "{name}: {a} and {b}");
        }
        // Weights themselves, without copies in half precision.
        for (a, b) in by_loop.iter().step_by(3).flatten().zip(by_formula.iter().step_by(3).flatten()) {
            assert!((a - b).abs() <= 1e-6 + 2e-6 * a.abs(), "{name}: {a} and {b}");
        }
    }
}

#[test]
fn every_optimizer_does_on_a_gpu_what_it_does_on_the_cpu() {
    let _alone = alone();
    let scaling = Some(LossScaling { init_scale: 16.0, growth_interval: 3, ..LossScaling::default() });
    let clips = [None, Some(GradClip::Norm(0.5)), Some(GradClip::Value(0.3)), Some(GradClip::Agc(0.05))];
    // AdaHessian reads a curvature, which its own tests give it.
    for (i, name) in names().filter(|name| name != "adahessian").enumerate() {
        let rule = rule(&name, &options()).expect("an optimizer").update;
        let gradients =
            GradientRule { scaling: scaling.filter(|_| half(i) == DType::F16), clip: clips[i % 4] };
        let [on_cpu, on_gpu] = [Device::Cpu, GPU].map(|device| run(&rule, gradients, &device).expect(&name));
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

/// The shapes of ResNet-50's 161 parameters, with an eighth of its channels.
fn resnet50() -> Vec<Vec<usize>> {
    let mut shapes = vec![vec![8, 7, 7, 3], vec![8], vec![8]];
    let mut input = 8;
    for (stage, blocks) in [3, 4, 6, 3].into_iter().enumerate() {
        let width = 8 << stage;
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
fn an_update_is_at_most_three_launches() {
    let _alone = alone();
    let shapes = resnet50();
    for name in names() {
        for clip in [None, Some(GradClip::Norm(1.0))] {
            let parameter = |(i, shape): (usize, &Vec<usize>)| {
                let tensor = values(shape, i, &GPU).variable();
                tensor.set_grad(Some(values(shape, i + 1, &GPU)));
                Parameter { weight_decay: 0.01, ..Parameter::new(i.to_string(), tensor) }
            };
            let parameters = shapes.iter().enumerate().map(parameter).collect();
            let gradients = GradientRule { scaling: None, clip };
            let optimizer = create_optimizer(&name, parameters, &options(), gradients).expect(&name);
            optimizer.set_lr(0.01).expect("a copy");
            let before = cuda::launch_count(GPU);
            optimizer.step().expect("updates");
            let launches = cuda::launch_count(GPU) - before;
            // A look at all gradients, which others than LAMB do without unless gradients are clipped or scaled.
            let look = u64::from(clip.is_some() && !optimizer.rule().name().contains("lamb"));
            assert!(launches <= 3 + look, "{name} with {clip:?}: {launches} launches");
        }
    }
}

#[test]
fn what_an_optimizer_does_not_have_is_refused() {
    let refused = |name: &str, options: OptimizerOptions| {
        rule(name, &options).expect_err("it is not known").to_string()
    };
    assert!(
        refused("adamm", options()).contains("did you mean \"adam\"?"),
        "{}",
        refused("adamm", options())
    );
    let momentum = OptimizerOptions { momentum: Some(0.9), ..options() };
    assert!(refused("adamw", momentum).contains("adamw has no momentum"));
    let mut unknown = options();
    unknown.kwargs.insert("nesterof".into(), KwargValue::Bool(true));
    assert!(refused("sgd", unknown.clone()).contains("nesterov=true"), "{}", refused("sgd", unknown));
    let mut wrong = options();
    wrong.kwargs.insert("amsgrad".into(), KwargValue::Number(1.0));
    assert!(refused("adam", wrong).contains("amsgrad"));
    let betas = OptimizerOptions { betas: Some(vec![0.9]), ..options() };
    assert!(refused("adam", betas).contains("there are 2"));
    assert!(refused("adamc", OptimizerOptions::default()).contains("highest learning rate"));
}
