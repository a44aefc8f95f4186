//! Data-parallel training steps: W ranks, threads that communicate over TCP, with a batch of B / W images each, equal one rank with a batch
//! of B. By default a representative subset runs; `FORNAX_TEST_SWEEP=full` runs more,
//! `FORNAX_TEST_SWEEP=reliability` every combination.
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/sweep.rs"]
mod sweep;

use fornax::distributed::{DataParallel, ProcessGroup, TcpCollective};
use fornax::ema::{Ema, EmaOptions};
use fornax::loader::Batch;
use fornax::optim::{Optimizer, OptimizerOptions, create_optimizer, parameters};
use fornax::train_step::{TrainStep, TrainStepOptions};
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{
    Activation, Collective, DType, Device, GlobalPool, GradClip, GradientRule, LossScaling,
    PendingCollective, Reduction, Tensor, UpdateStats,
};
use fornax_nn::layers::{Conv2d, Linear};
use fornax_nn::{
    Context, ModelOptions, Module, OptLevel, Precision, Visitor, create_model, init, named_parameters,
    state_entries,
};
use ranks::on_ranks;
use std::sync::{Arc, Mutex};
use sweep::{is_reliability_sweep, is_whole_sweep};

const CLASSES: usize = 5;
/// Images of a batch over all ranks: a multiple of 2, 3 and 4.
const BATCH: usize = 24;
const UPDATES: u64 = 20;

/// Convolutions and a classifier without batch norm. The last layer of `unused` is not part of the forward pass.
struct Plain {
    convs: Vec<Conv2d>,
    head: Linear,
    unused: Option<Linear>,
}

impl Plain {
    fn new(with_unused: bool) -> Plain {
        let conv = |from| Conv2d::same(from, 16, 3, 1).expect("memory");
        let linear = |from, to| Linear::new(from, to).expect("memory");
        Plain {
            convs: vec![conv(3), conv(16)],
            head: linear(16, CLASSES),
            unused: with_unused.then(|| linear(16, 4)),
        }
    }
}

impl Module for Plain {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> fornax_engine::Result<Tensor> {
        let features = self.convs.iter().try_fold(x.clone(), |x, conv| conv.forward(&x, cx)?.relu())?;
        self.head.forward(&features.global_pool(GlobalPool::Avg)?, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        for (i, conv) in self.convs.iter().enumerate() {
            visitor.child(&format!("convs.{i}"), conv);
        }
        visitor.child("head", &self.head);
        if let Some(unused) = &self.unused {
            visitor.child("unused", unused);
        }
    }
}

/// Variant of a training step.
#[derive(Clone, Copy, Debug)]
struct Variant {
    /// ResNet with synchronised batch norm; else a model without batch norm.
    sync_bn: bool,
    /// Dropout, stochastic depth and DropBlock in the ResNet.
    drops: bool,
    accumulation: usize,
    level: OptLevel,
    clip: Option<GradClip>,
    compression: Option<DType>,
    checkpointing: bool,
}

const PLAIN: Variant = Variant {
    sync_bn: false,
    drops: false,
    accumulation: 1,
    level: OptLevel::O0,
    clip: None,
    compression: None,
    checkpointing: false,
};

fn initialize(model: &dyn Module) {
    for (name, parameter) in named_parameters(model) {
        init::normal(&parameter, 0.1, &mut init::rng(1, &name)).expect("f32");
    }
}

fn model(variant: &Variant) -> Box<dyn Module> {
    let rate = |rate: f64| if variant.drops { rate } else { 0.0 };
    let options = ModelOptions {
        num_classes: CLASSES,
        in_chans: 3,
        seed: 1,
        drop_rate: rate(0.3),
        drop_path_rate: rate(0.2),
        drop_block_rate: rate(0.1),
        ..ModelOptions::default()
    };
    match variant.sync_bn {
        true => create_model("resnet8", &options).expect("a model"),
        false => {
            let model = Plain::new(false);
            initialize(&model);
            Box::new(model)
        }
    }
}

/// Images `range` of a batch whose images' mean depends on the class.
fn batch(seed: u64, range: std::ops::Range<usize>) -> Batch {
    let mut rng = RngStream::new(RngKey::new(seed, "images"), 0, 0);
    let target: Vec<i64> = (0..BATCH).map(|_| i64::from(rng.below(CLASSES as u32))).collect();
    let pixels = target.iter().flat_map(|t| vec![*t as f32 / 2.0 - 1.0; 8 * 8 * 3]).collect::<Vec<_>>();
    let pixels: Vec<f32> = pixels.into_iter().map(|p| p + 0.5 * rng.normal()).collect();
    let n = range.len();
    let pixels = pixels[range.start * 192..range.end * 192].to_vec();
    let rows: Vec<i64> = range.clone().map(|row| row as i64).collect();
    let whole = Batch::new(
        Tensor::from_vec(pixels, [n, 8, 8, 3]).expect("memory"),
        Tensor::from_vec(target[range].to_vec(), [n]).expect("memory"),
    );
    match n < BATCH {
        true => Batch { global_rows: Some(Tensor::from_vec(rows, [n]).expect("memory")), ..whole },
        false => whole,
    }
}

/// State after training: bits of every tensor, and the losses.
struct Trained {
    state: Vec<(String, Vec<f32>)>,
    losses: Vec<f64>,
    stats: Vec<Option<UpdateStats>>,
}

impl Trained {
    fn bits(&self) -> Vec<u32> {
        self.state.iter().flat_map(|(_, values)| values).map(|value| value.to_bits()).collect()
    }

    /// Norm of the difference relative to the norm.
    fn distance(&self, other: &Trained) -> f64 {
        let pairs = || self.state.iter().zip(&other.state).flat_map(|(a, b)| a.1.iter().zip(&b.1));
        let square = |v: f32| f64::from(v).powi(2);
        (pairs().map(|(a, b)| square(a - b)).sum::<f64>() / pairs().map(|(a, _)| square(*a)).sum::<f64>())
            .sqrt()
    }
}

/// Trains as one rank of a group, or alone.
fn train(variant: &Variant, group: Option<&Arc<ProcessGroup>>) -> Trained {
    let collective = group
        .map(|group| Arc::new(TcpCollective::new(group.clone()).expect("connects")) as Arc<dyn Collective>);
    train_with(variant, group, collective, 0..UPDATES)
}

fn train_with(
    variant: &Variant,
    group: Option<&Arc<ProcessGroup>>,
    collective: Option<Arc<dyn Collective>>,
    updates: std::ops::Range<u64>,
) -> Trained {
    let (rank, world) = group.map_or((0, 1), |group| (group.rank(), group.world_size()));
    let model = model(variant);
    let scaling = (variant.level != OptLevel::O0).then(|| LossScaling {
        init_scale: 1024.0,
        growth_interval: 6,
        ..LossScaling::default()
    });
    let rule = GradientRule { scaling, clip: variant.clip };
    let options = OptimizerOptions::default();
    let optimizer = create_optimizer("momentum", parameters(&*model, 1e-2), &options, rule).expect("memory");
    let ema = model_of_ema(variant, &*model);
    let data_parallel = group.zip(collective.clone()).map(|(group, collective)| {
        let parameters = optimizer.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
        DataParallel::new(group.clone(), collective, parameters, variant.compression).expect("memory")
    });
    let options = TrainStepOptions {
        precision: Precision::new(variant.level, DType::F16),
        sync_bn: collective.filter(|_| variant.sync_bn),
        checkpointing: variant.checkpointing,
        ..TrainStepOptions::default()
    };
    let mut step =
        TrainStep::new(options, None, Device::Cpu).with_ema(Some(ema)).with_data_parallel(data_parallel);
    let (mut losses, mut stats) = (vec![], vec![]);
    for update in updates {
        let part = rank * BATCH / world..(rank + 1) * BATCH / world;
        let seeds = (0..variant.accumulation as u64).map(|i| update * 8 + i);
        let batches: Vec<Batch> = seeds.map(|seed| batch(seed, part.clone())).collect();
        let result = step.queue(&*model, &optimizer, &batches, 0.05).and_then(|pending| pending.wait());
        let result = result.expect("runs");
        losses.push(result.loss);
        stats.push(result.stats);
    }
    assert_eq!(step.take_warning(), None);
    Trained { state: state(&*model, &optimizer, step.ema()), losses, stats }
}

fn model_of_ema(variant: &Variant, of: &dyn Module) -> Ema {
    let options = EmaOptions { decay: 0.9, ..EmaOptions::default() };
    Ema::new(of, model(variant), options, Device::Cpu).expect("memory")
}

fn state(model: &dyn Module, optimizer: &Optimizer, ema: Option<&Ema>) -> Vec<(String, Vec<f32>)> {
    let of = |model: &dyn Module| {
        state_entries(model).into_iter().map(|entry| (entry.name, entry.tensor)).collect::<Vec<_>>()
    };
    let mut all = of(model);
    all.extend(optimizer.state_dict());
    all.extend(ema.into_iter().flat_map(|ema| of(ema.model())));
    all.into_iter()
        .filter(|(_, tensor)| tensor.dtype() == DType::F32)
        .map(|(name, tensor)| (name, tensor.to_vec::<f32>().expect("f32")))
        .collect()
}

fn check(variant: Variant, world: usize, tolerance: f64) {
    let alone = train(&variant, None);
    let ranks = on_ranks(world, |group| {
        let trained = train(&variant, Some(&group));
        group.finish().expect("ends");
        trained
    });
    for (rank, trained) in ranks.iter().enumerate() {
        assert_eq!(
            trained.bits(),
            ranks[0].bits(),
            "{variant:?}: rank {rank} of {world} differs from rank 0"
        );
        assert_eq!(trained.losses, ranks[0].losses, "{variant:?}");
        assert_eq!(trained.stats, ranks[0].stats, "{variant:?}");
    }
    let distance = alone.distance(&ranks[0]);
    eprintln!("{variant:?}, {world} ranks: distance {distance:.1e}");
    assert!(distance < tolerance, "{variant:?}: {world} ranks differ from one by {distance:e}");
    assert!(alone.losses[UPDATES as usize - 1] < 0.9 * alone.losses[0], "{:?}", alone.losses);
    let last = ranks[0].losses[UPDATES as usize - 1];
    assert!((last - alone.losses[UPDATES as usize - 1]).abs() < 20.0 * tolerance, "{last}");
}

/// f32 rounding after 20 updates; and of f16.
const F32: f64 = 1e-4;
const F16: f64 = 3e-2;

#[test]
fn ranks_equal_one_rank_with_the_whole_batch() {
    let clipped = Variant { clip: Some(GradClip::Norm(0.5)), ..PLAIN };
    if !is_whole_sweep() {
        check(PLAIN, 2, F32);
        check(Variant { sync_bn: true, accumulation: 2, ..clipped }, 3, F32);
        check(Variant { level: OptLevel::O1, ..clipped }, 2, F16);
        return;
    }
    let mut combinations = vec![];
    for world in [2, 3, 4] {
        for sync_bn in [false, true] {
            for accumulation in [1, 3] {
                for clip in [None, Some(GradClip::Norm(0.5)), Some(GradClip::Agc(0.1))] {
                    for (level, tolerance) in [(OptLevel::O0, F32), (OptLevel::O1, F16)] {
                        combinations.push((
                            Variant { sync_bn, accumulation, level, clip, ..PLAIN },
                            world,
                            tolerance,
                        ));
                    }
                }
            }
        }
    }
    // Five is coprime to every list above: each value occurs.
    let step = if is_reliability_sweep() { 1 } else { 5 };
    for (variant, world, tolerance) in combinations.into_iter().step_by(step) {
        check(variant, world, tolerance);
    }
}

#[test]
fn random_masks_of_ranks_are_those_of_one_rank_with_the_whole_batch() {
    for (world, accumulation, checkpointing) in [(2, 1, false), (3, 2, true)] {
        let variant = Variant { sync_bn: true, drops: true, accumulation, checkpointing, ..PLAIN };
        let alone = train_with(&variant, None, None, 0..3);
        let without = train_with(&Variant { drops: false, ..variant }, None, None, 0..3);
        assert!(
            (alone.losses[0] - without.losses[0]).abs() > 1e-2,
            "{:?} {:?}",
            alone.losses,
            without.losses
        );
        let ranks = on_ranks(world, |group| {
            let collective: Arc<dyn Collective> =
                Arc::new(TcpCollective::new(group.clone()).expect("connects"));
            let trained = train_with(&variant, Some(&group), Some(collective), 0..3);
            group.finish().expect("ends");
            trained
        });
        for trained in &ranks {
            let distance = alone.distance(trained);
            eprintln!("{variant:?}, {world} ranks: distance {distance:.1e}");
            assert!(distance < 1e-5, "{variant:?}: {world} ranks differ from one by {distance:e}");
            for (a, b) in alone.losses.iter().zip(&trained.losses) {
                assert!((a - b).abs() < 1e-5, "{variant:?}: {:?} {:?}", alone.losses, trained.losses);
            }
        }
    }
}

#[test]
fn compressed_gradients_train_as_well() {
    check(Variant { compression: Some(DType::BF16), ..PLAIN }, 2, F16);
    check(Variant { compression: Some(DType::F16), ..PLAIN }, 2, F16);
}

/// Bits of the state of rank 0 of a group.
fn bits_of_ranks(variant: &Variant, world: usize) -> Vec<u32> {
    let ranks = on_ranks(world, |group| {
        let trained = train(variant, Some(&group));
        group.finish().expect("ends");
        trained.bits()
    });
    ranks.into_iter().next().expect("a rank")
}

#[test]
fn runs_repeat_bit_for_bit() {
    let variant = Variant { sync_bn: true, accumulation: 2, clip: Some(GradClip::Norm(1.0)), ..PLAIN };
    assert_eq!(bits_of_ranks(&variant, 3), bits_of_ranks(&variant, 3));
}

/// The recomputation synchronises batch norm once more, between the reductions of gradients.
#[test]
fn checkpointing_on_ranks_keeps_the_bits() {
    let variant = Variant { sync_bn: true, ..PLAIN };
    let checkpointed = Variant { checkpointing: true, ..variant };
    assert_eq!(bits_of_ranks(&variant, 2), bits_of_ranks(&checkpointed, 2));
}

/// Collective operations that are recorded, with delays that differ from rank to rank.
#[derive(Debug)]
struct Recorded {
    inner: TcpCollective,
    events: Arc<Mutex<Vec<usize>>>,
}

impl Collective for Recorded {
    fn rank(&self) -> usize {
        self.inner.rank()
    }
    fn world_size(&self) -> usize {
        self.inner.world_size()
    }
    fn start_all_reduce(
        &self,
        tensor: &Tensor,
        reduction: Reduction,
    ) -> fornax_engine::Result<PendingCollective> {
        self.events.lock().expect("no panic").push(tensor.numel());
        std::thread::sleep(std::time::Duration::from_millis(3 * self.rank() as u64));
        self.inner.start_all_reduce(tensor, reduction)
    }
    fn broadcast(&self, tensor: &Tensor, root: usize) -> fornax_engine::Result<()> {
        self.inner.broadcast(tensor, root)
    }
    fn all_gather(&self, tensor: &Tensor) -> fornax_engine::Result<Tensor> {
        self.inner.all_gather(tensor)
    }
    fn barrier(&self) -> fornax_engine::Result<()> {
        self.inner.barrier()
    }
    fn abort(&self) {
        self.inner.abort();
    }
}

/// The classifier's input is a large layer, whose gradient is ready first.
struct Large(Linear, Linear);

impl Module for Large {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> fornax_engine::Result<Tensor> {
        let hidden = self.0.forward(&x.flatten(1)?, cx)?.activate(Activation::Relu)?;
        self.1.forward(&hidden, cx)
    }
    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("first", &self.0);
        visitor.child("second", &self.1);
    }
}

#[test]
fn first_bucket_is_reduced_during_the_backward_pass_and_none_while_accumulating() {
    // Two buckets: the second layer has 1.3 MB, the first one 8 MB.
    let hidden = 12_000;
    on_ranks(2, |group| {
        let model =
            Large(Linear::new(192, hidden).expect("memory"), Linear::new(hidden, 30).expect("memory"));
        initialize(&model);
        let events = Arc::new(Mutex::new(vec![]));
        let inner = TcpCollective::new(group.clone()).expect("connects");
        let recorded = Arc::new(Recorded { inner, events: events.clone() });
        let named = named_parameters(&model);
        // Registered after those of the reducer for the first layer: 0 marks its gradient.
        let data_parallel = {
            let first = named.iter().find(|(name, _)| name == "first.weight").expect("a parameter").1.clone();
            let events = events.clone();
            first
                .register_post_accumulate_grad_hook(Box::new(move |_| {
                    events.lock().expect("no panic").push(0);
                    Ok(())
                }))
                .expect("a variable");
            DataParallel::new(group.clone(), recorded, named.clone(), None).expect("memory")
        };
        assert_eq!(data_parallel.buckets()[0], ["second.bias", "second.weight"]);
        let loss = Tensor::scalar(0.0f32).expect("memory");
        let backward = || {
            let mut cx = Context::train();
            let y = model.forward(&batch(1, 0..4).images, &mut cx).expect("runs");
            y.square().and_then(|y| y.mean_all()).and_then(|y| y.backward()).expect("runs");
        };
        // A batch that only accumulates, and the last one of the update.
        backward();
        assert_eq!(*events.lock().expect("no panic"), [0]);
        data_parallel.begin();
        backward();
        // Gradients start at multiples of eight elements.
        let second = hidden * 30 + 32;
        let first = hidden * 192 + hidden;
        assert_eq!(*events.lock().expect("no panic"), [0, second, 0, first], "overlap");
        data_parallel.finish(&loss, &[]).expect("reduces");
        assert_eq!(*events.lock().expect("no panic"), [0, second, 0, first, 1]);
        group.finish().expect("ends");
    });
}

#[test]
fn unused_parameters_are_named_and_stay_unchanged() {
    on_ranks(2, |group| {
        let model = Plain::new(true);
        initialize(&model);
        let optimizer = create_optimizer(
            "momentum",
            parameters(&model, 0.1),
            &OptimizerOptions::default(),
            Default::default(),
        )
        .expect("memory");
        let collective = Arc::new(TcpCollective::new(group.clone()).expect("connects"));
        let named: Vec<_> =
            optimizer.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
        let unused = named.iter().find(|(name, _)| name == "unused.weight").expect("a parameter").1.clone();
        let before = unused.to_vec::<f32>().expect("f32");
        let data_parallel = DataParallel::new(group.clone(), collective, named, None).expect("memory");
        let mut step = TrainStep::new(TrainStepOptions::default(), None, Device::Cpu)
            .with_data_parallel(Some(data_parallel));
        for update in 0..3 {
            step.run(&model, &optimizer, &[batch(update, 0..8)], 0.1).expect("runs");
            let warning = step.take_warning();
            assert_eq!(warning.is_some(), update == 0, "{warning:?}");
            if let Some(text) = warning {
                assert!(text.contains("unused.weight") && text.contains("unused.bias"), "{text}");
                assert!(!text.contains("head"), "{text}");
            }
        }
        assert_eq!(unused.to_vec::<f32>().expect("f32"), before);
        group.finish().expect("ends");
    });
}

#[test]
fn overflow_on_one_rank_skips_the_update_on_all() {
    let results = on_ranks(2, |group| {
        let variant = Variant { level: OptLevel::O1, ..PLAIN };
        let model = model(&variant);
        let rule = GradientRule { scaling: Some(LossScaling::default()), clip: None };
        let optimizer =
            create_optimizer("momentum", parameters(&*model, 0.0), &OptimizerOptions::default(), rule)
                .expect("memory");
        let collective = Arc::new(TcpCollective::new(group.clone()).expect("connects"));
        let named = optimizer.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
        let data_parallel = DataParallel::new(group.clone(), collective, named, None).expect("memory");
        let mut step = TrainStep::new(TrainStepOptions::default(), None, Device::Cpu)
            .with_data_parallel(Some(data_parallel));
        let mut input = batch(1, 0..8);
        if group.rank() == 1 {
            input.images = input.images.affine(0.0, f64::INFINITY).expect("memory");
        }
        let before = state(&*model, &optimizer, None);
        let weights = |state: &[(String, Vec<f32>)]| {
            state.iter().find(|(n, _)| n == "head.weight").map(|s| s.1.clone())
        };
        let result = step.queue(&*model, &optimizer, &[input], 0.1).and_then(|p| p.wait()).expect("runs");
        let after = state(&*model, &optimizer, None);
        group.finish().expect("ends");
        (
            result.stats.expect("loss scaling").skipped,
            weights(&before) == weights(&after),
            result.loss.is_finite(),
        )
    });
    assert_eq!(results, [(true, true, false), (true, true, false)]);
}
