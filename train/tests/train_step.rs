//! Training steps: CUDA graph replay against eager, mixed precision, gradient accumulation, gradient checkpointing.
#[path = "common/sweep.rs"]
mod sweep;

use fornax::data::ChannelStats;
use fornax::loader::{Batch, BatchPreparation};
use fornax::optim::{Optimizer, OptimizerOptions, create_optimizer, parameters};
use fornax::train_step::{CudaGraphMode, TrainStep, TrainStepOptions};
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{
    DType, Device, EraseMode, GlobalPool, GradClip, GradientRule, ImageBox, ImageChange, LossScaling, Tensor,
    cuda,
};
use fornax_kernels::emulator;
use fornax_nn::layers::{Conv2d, DropBlock, DropPath, Dropout, Linear, Sequential};
use fornax_nn::loss::CrossEntropy;
use fornax_nn::{
    Context, ModelOptions, Module, OptLevel, Precision, Visitor, create_model, init, move_to, state_entries,
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use sweep::is_full_sweep;

const SGD: &str = "sgd";
const ADAMW: &str = "adamw";

/// Runs one test at a time: while one test captures, no other may copy to the device.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|e| e.into_inner())
}

fn emulated() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    *DEVICE.get_or_init(|| Device::emulated(1).expect("g++ is installed"))
}

/// Model, optimizer and training step.
struct Run {
    model: Box<dyn Module>,
    optimizer: Optimizer,
    step: TrainStep,
    losses: Vec<f64>,
}

impl Run {
    fn new(options: TrainStepOptions, opt: &str, scaling: Option<LossScaling>, device: Device) -> Run {
        let small = ModelOptions { num_classes: 5, in_chans: 3, seed: 1, ..ModelOptions::default() };
        Run::of(create_model("resnet8", &small).expect("a model"), options, opt, scaling, device)
    }

    fn of(
        model: Box<dyn Module>,
        options: TrainStepOptions,
        opt: &str,
        scaling: Option<LossScaling>,
        device: Device,
    ) -> Run {
        move_to(&*model, &device).expect("memory");
        let gradients = GradientRule { scaling, clip: Some(GradClip::Norm(2.0)) };
        let optimizer =
            create_optimizer(opt, parameters(&*model, 1e-2), &OptimizerOptions::default(), gradients)
                .expect("memory");
        Run { model, optimizer, step: TrainStep::new(options, None, device), losses: vec![] }
    }

    fn step(&mut self, batches: &[Batch], lr: f64) -> &mut Run {
        let loss = self.step.run(&*self.model, &self.optimizer, batches, lr).expect("runs");
        assert_eq!(self.step.capture_error(), None);
        self.losses.push(loss);
        self
    }

    /// Every bit of the state of model and optimizer.
    fn bits(&self) -> Vec<(String, Vec<u64>)> {
        let model = state_entries(&*self.model).into_iter().map(|e| (e.name, e.tensor));
        let all = model.chain(self.optimizer.state_dict());
        all.map(|(name, tensor)| {
            let bits = match tensor.dtype() {
                DType::I64 => tensor.to_vec::<i64>().expect("i64").iter().map(|v| *v as u64).collect(),
                _ => tensor.to_vec::<f32>().expect("f32").iter().map(|v| u64::from(v.to_bits())).collect(),
            };
            (name, bits)
        })
        .collect()
    }
}

/// A batch of random images whose mean depends on the class.
fn batch(seed: u64, images: usize) -> Batch {
    let mut rng = RngStream::new(RngKey::new(seed, "images"), 0, 0);
    let target: Vec<i64> = (0..images).map(|_| i64::from(rng.below(5))).collect();
    let pixels = target.iter().flat_map(|t| vec![*t as f32 / 2.0 - 1.0; 8 * 8 * 3]).collect::<Vec<_>>();
    let pixels: Vec<f32> = pixels.into_iter().map(|p| p + 0.5 * rng.normal()).collect();
    Batch::new(
        Tensor::from_vec(pixels, [images, 8, 8, 3]).expect("memory"),
        Tensor::from_vec(target, [images]).expect("memory"),
    )
}

fn lr(step: u64) -> f64 {
    0.05 / (1.0 + step as f64)
}

fn options(level: OptLevel, half: DType, graph: CudaGraphMode) -> TrainStepOptions {
    let loss = Arc::new(CrossEntropy { smoothing: 0.1 });
    TrainStepOptions {
        precision: Precision::new(level, half),
        loss,
        cuda_graph: graph,
        ..TrainStepOptions::default()
    }
}

#[test]
fn replayed_steps_match_eager_steps_bit_for_bit() {
    let _alone = one_at_a_time();
    let scaling = Some(LossScaling { init_scale: 1024.0, growth_interval: 6, ..LossScaling::default() });
    let cases = [
        (OptLevel::O0, DType::F16, ADAMW, None),
        (OptLevel::O1, DType::F16, SGD, scaling),
        (OptLevel::O3, DType::F16, SGD, scaling),
        // Update rules with reductions, the global gradient norm, and scalar state.
        (OptLevel::O1, DType::F16, "lookahead_lamb", scaling),
        (OptLevel::O2, DType::BF16, ADAMW, None),
        (OptLevel::O1, DType::BF16, "novograd", None),
        (OptLevel::O1, DType::BF16, "cadamp", None),
        (OptLevel::O1, DType::F16, "nadam", scaling),
    ];
    let count = if is_full_sweep() { cases.len() } else { 4 };
    for (level, half, opt, scaling) in cases.into_iter().take(count) {
        let [replayed, eager] = [CudaGraphMode::Always, CudaGraphMode::Never].map(|graph| {
            let mut run = Run::new(options(level, half, graph), opt, scaling, emulated());
            for step in 0..20 {
                // Another batch shape in between has its own graph, and so has a pair of accumulated batches.
                let images = if step % 7 == 3 { 3 } else { 6 };
                let batches: Vec<Batch> =
                    (0..1 + step % 7 / 5).map(|i| batch(2 * step + i, images)).collect();
                run.step(&batches, lr(step));
            }
            run
        });
        assert_eq!(replayed.losses, eager.losses, "{level:?} in {half}");
        for (a, b) in replayed.bits().iter().zip(eager.bits()) {
            assert_eq!(*a, b, "{level:?} in {half}");
        }
        assert!(eager.losses[19] < 0.8 * eager.losses[0], "{:?}", eager.losses);
    }
}

/// u8 images, mixed and erased in the step, with soft targets.
fn mixed_batch(seed: u64, images: usize) -> Batch {
    let mut rng = RngStream::new(RngKey::new(seed, "mixed"), 0, 0);
    let pixels = (0..images * 8 * 8 * 3).map(|_| rng.below(256) as u8).collect();
    let change = |i: usize| ImageChange {
        partner: images - 1 - i,
        lam: (seed % 5) as f32 / 4.0,
        sample: seed << 40 | i as u64,
        erase_boxes: vec![ImageBox { top: 0, bottom: 3, left: 1, right: 2 + (seed % 6) as u32 }],
        ..ImageChange::none(i)
    };
    let changes: Vec<ImageChange> = (0..images).map(change).collect();
    let target: Vec<f32> = (0..images * 5).map(|_| rng.uniform() / 2.5).collect();
    let target = Tensor::from_vec(target, [images, 5]).expect("memory");
    let images = Tensor::from_vec(pixels, [images, 8, 8, 3]).expect("memory");
    let changes = Some(ImageChange::rows(&changes, changes.len(), 1).expect("they fit"));
    Batch { changes, ..Batch::new(images, target) }
}

#[test]
fn mixed_and_erased_batches_replay_bit_for_bit() {
    let _alone = one_at_a_time();
    let statistics = ChannelStats { white: 255, mean: vec![0.5; 3], std: vec![0.25; 3] };
    let preparation =
        BatchPreparation { erase_mode: EraseMode::Pixel, seed: 3, ..BatchPreparation::from(statistics) };
    let [replayed, eager] = [CudaGraphMode::Always, CudaGraphMode::Never].map(|graph| {
        let options = options(OptLevel::O1, DType::F16, graph);
        let mut run = Run::new(options.clone(), ADAMW, None, emulated());
        run.step = TrainStep::new(options, Some(preparation.clone()), emulated());
        (0..8).for_each(|step| {
            run.step(&[mixed_batch(step, 6)], lr(step));
        });
        run
    });
    assert_eq!(replayed.losses, eager.losses);
    assert_eq!(replayed.bits(), eager.bits());
    let mut losses = eager.losses.clone();
    losses.sort_by(f64::total_cmp);
    losses.dedup();
    assert_eq!(losses.len(), 8, "every step has its own batch: {losses:?}");
}

/// The device gets the next update before the result of the last one is read.
#[test]
fn queued_updates_have_the_results_of_updates_that_are_waited_for() {
    let _alone = one_at_a_time();
    for graph in [CudaGraphMode::Always, CudaGraphMode::Never] {
        let scaling = Some(LossScaling::default());
        let options = options(OptLevel::O1, DType::F16, graph);
        let mut waited = Run::new(options.clone(), SGD, scaling, emulated());
        let mut queued = Run::new(options, SGD, scaling, emulated());
        let (mut expected, mut results, mut pending) = (vec![], vec![], vec![]);
        for step in 0..6 {
            let batches = [batch(step, 6)];
            let one = waited.step.queue(&*waited.model, &waited.optimizer, &batches, lr(step)).expect("runs");
            expected.push(one.wait().expect("runs"));
            let two = queued.step.queue(&*queued.model, &queued.optimizer, &batches, lr(step)).expect("runs");
            pending.push(two);
            if pending.len() == 3 {
                results.extend(pending.drain(..).map(|update| update.wait().expect("runs")));
            }
        }
        assert_eq!(results, expected, "{graph:?}");
        assert!(expected[0].stats.is_some_and(|stats| stats.grad_norm.is_some_and(|norm| norm > 0.0)));
        assert_eq!(waited.bits(), queued.bits());
    }
}

/// Checkpointed blocks of a convolution and dropout layers, and a classifier.
struct Dropping {
    blocks: Sequential,
    head: Linear,
}

struct Block(Conv2d, [Box<dyn Module>; 3]);

impl Module for Block {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> fornax_engine::Result<Tensor> {
        let y = self.0.forward(x, cx)?;
        self.1.iter().try_fold(y, |y, drop| drop.forward(&y, cx))?.relu()
    }
    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("conv", &self.0);
    }
}

impl Module for Dropping {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> fornax_engine::Result<Tensor> {
        let y = self.blocks.forward(x, cx)?;
        self.head.forward(&y.global_pool(GlobalPool::Avg)?, cx)
    }
    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("blocks", &self.blocks);
        visitor.child("head", &self.head);
    }
}

fn dropping() -> Box<dyn Module> {
    let block = |c_in| {
        let squares = DropBlock { drop_prob: 0.1, block_size: 3, gamma_scale: 1.0 };
        let drops: [Box<dyn Module>; 3] =
            [Box::new(Dropout(0.5)), Box::new(DropPath::new(0.2)), Box::new(squares)];
        Arc::new(Block(Conv2d::same(c_in, 16, 3, 1).expect("memory"), drops))
    };
    let blocks = Sequential::new(vec![block(3) as Arc<dyn Module>, block(16)]);
    let model = Dropping { blocks, head: Linear::new(16, 5).expect("memory") };
    for (name, parameter) in fornax_nn::named_parameters(&model) {
        init::normal(&parameter, 0.1, &mut init::rng(1, &name)).expect("f32");
    }
    Box::new(model)
}

#[test]
fn dropout_masks_differ_between_steps_and_are_equal_when_replayed_or_recomputed() {
    let _alone = one_at_a_time();
    let run = |graph, checkpointing, device| {
        let options =
            TrainStepOptions { cuda_graph: graph, checkpointing, seed: 7, ..TrainStepOptions::default() };
        let mut run = Run::of(dropping(), options, SGD, None, device);
        // With learning rate 0 only the dropout masks differ.
        (0..4).for_each(|_| {
            run.step(&[batch(1, 6)], 0.0);
        });
        (0..4).for_each(|step| {
            run.step(&[batch(step, 6), batch(step + 9, 6)], lr(step));
        });
        // Rows of the batch of all ranks, which change from update to update.
        (0..4).for_each(|step| {
            let rows: Vec<i64> = (0..6).map(|row| row * step as i64 + 1).collect();
            let rows = Some(Tensor::from_slice(&rows, [6]).expect("memory"));
            run.step(&[Batch { global_rows: rows, ..batch(1, 6) }], 0.0);
        });
        run
    };
    for checkpointing in [false, true] {
        let eager = run(CudaGraphMode::Never, checkpointing, emulated());
        let replayed = run(CudaGraphMode::Always, checkpointing, emulated());
        assert_eq!(eager.losses, replayed.losses);
        assert_eq!(eager.bits(), replayed.bits());
        let on_cpu = run(CudaGraphMode::Never, checkpointing, Device::Cpu);
        for (a, b) in eager.losses.iter().zip(&on_cpu.losses) {
            assert!((a - b).abs() < 1e-5, "{:?} {:?}", eager.losses, on_cpu.losses);
        }
        for range in [0..4, 8..12] {
            let mut losses = eager.losses[range].to_vec();
            losses.sort_by(f64::total_cmp);
            losses.dedup();
            assert_eq!(losses.len(), 4, "{:?}", eager.losses);
        }
    }
}

#[test]
fn overflow_skips_replayed_update() {
    let _alone = one_at_a_time();
    let scaling = LossScaling { init_scale: 1e30, ..LossScaling::default() };
    for graph in [CudaGraphMode::Always, CudaGraphMode::Never] {
        let mut run = Run::new(options(OptLevel::O1, DType::F16, graph), SGD, Some(scaling), emulated());
        let weights = || -> Vec<Vec<f32>> {
            let all = fornax_nn::named_parameters(&*run.model).into_iter();
            all.map(|(_, t)| t.to_vec::<f32>().expect("f32")).collect()
        };
        let before = weights();
        for step in 1..=4 {
            let loss = run.step.run(&*run.model, &run.optimizer, &[batch(step, 4)], 0.1).expect("runs");
            assert!(loss.is_finite());
            let report = run.optimizer.stats().expect("a report");
            let expected = 1e30f32 * 0.5f32.powi(step as i32);
            assert_eq!((report.skipped, report.loss_scale), (true, expected), "{graph:?}");
        }
        assert_eq!(weights(), before);
    }
}

#[test]
fn accumulated_batches_match_one_large_batch() {
    let _alone = one_at_a_time();
    // Batch norm normalises each batch separately, so both batches are equal here; running statistics are not compared.
    let (half, device) = (batch(1, 4), Device::Cpu);
    let twice = |t: &Tensor| Tensor::cat(&[t, t], 0).expect("memory");
    let whole = Batch::new(twice(&half.images), twice(&half.target));
    let mut once = Run::new(TrainStepOptions::default(), SGD, None, device);
    let mut parts = Run::new(TrainStepOptions::default(), SGD, None, device);
    once.step(&[whole], 0.1);
    parts.step(&[half.clone(), half], 0.1);
    assert!((once.losses[0] - parts.losses[0]).abs() < 1e-6, "{:?} {:?}", once.losses, parts.losses);
    let values = |run: &Run| -> Vec<(String, Vec<f32>)> {
        let all = fornax_nn::named_parameters(&*run.model).into_iter();
        all.map(|(name, t)| (name, t.to_vec::<f32>().expect("f32"))).collect()
    };
    for ((name, a), (_, b)) in values(&once).iter().zip(values(&parts)) {
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() <= 1e-5, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn warm_step_makes_no_driver_allocation_and_its_graph_has_no_memory_node() {
    let _alone = one_at_a_time();
    for graph in [CudaGraphMode::Never, CudaGraphMode::Always] {
        let options = options(OptLevel::O1, DType::F16, graph);
        let mut run = Run::new(options, SGD, Some(LossScaling::default()), emulated());
        let mut steps = |numbers: std::ops::Range<u64>| {
            for step in numbers {
                run.step(&[batch(step, 6)], lr(step));
            }
            (emulator::memory_calls(), cuda::memory_stats(emulated()).expect("it was used"))
        };
        let (warm, warm_stats) = steps(0..3);
        let (calls, stats) = steps(3..9);
        assert_eq!(calls, warm, "{graph:?}");
        assert_eq!(calls.graph_nodes, 0, "{graph:?}");
        assert_eq!(stats, warm_stats, "{graph:?}");
    }
}

#[test]
fn step_that_exceeds_the_memory_ends_with_exit_code_6() {
    let _alone = one_at_a_time();
    let mut run = Run::new(TrainStepOptions::default(), SGD, None, emulated());
    run.step(&[batch(0, 6)], lr(0));
    let total = cuda::devices().expect("the emulated device")[0].memory;
    let limit = cuda::memory_stats(emulated()).expect("it was used").reserved;
    emulator::set_device_memory(limit).expect("the emulated device");
    let result = run.step.run(&*run.model, &run.optimizer, &[batch(1, 4096)], lr(1));
    emulator::set_device_memory(total).expect("the emulated device");
    let error = result.expect_err("the batch is too large");
    assert_eq!(error.kind().exit_code(), 6, "{error}");
    let text = error.to_string();
    for part in ["out of memory on cuda:0", &format!("{limit} in total"), "--batch-size", "--amp"] {
        assert!(text.contains(part), "{text}");
    }
    run.step(&[batch(2, 6)], lr(2));
}

#[test]
fn grad_checkpointing_gives_equal_bits_and_uses_less_memory() {
    let _alone = one_at_a_time();
    for device in [Device::Cpu, emulated()] {
        let [stored, recomputed] = [false, true].map(|checkpointing| {
            let mut run = Run::new(
                TrainStepOptions { checkpointing, ..TrainStepOptions::default() },
                SGD,
                None,
                device,
            );
            (0..5).for_each(|step| {
                run.step(&[batch(step, 6)], lr(step));
            });
            run
        });
        if device != Device::Cpu {
            let activation_bytes = |run: &Run| {
                let allocated = || cuda::memory_stats(device).expect("it was used").allocated;
                let (before, images) = (allocated(), batch(9, 16).images.to_device(&device).expect("memory"));
                let mut cx = Context::train().with_checkpointing(run.step.options().checkpointing);
                let logits = run.model.forward(&images, &mut cx).expect("runs");
                let bytes = allocated() - before;
                drop(logits);
                bytes
            };
            let (all, inputs) = (activation_bytes(&stored), activation_bytes(&recomputed));
            assert!(inputs < all / 2, "{inputs} bytes of {all} are allocated");
        }
        assert_eq!(stored.losses, recomputed.losses, "{device}");
        assert_eq!(stored.bits(), recomputed.bits(), "{device}");
    }
}
