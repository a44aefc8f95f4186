//! Device memory traffic and launches of a whole ResNet-50 training step, as the trainer runs it in f16: in one process, and as one of
//! several ranks.
#[allow(dead_code)]
#[path = "../../../train/tests/common/ranks.rs"]
mod ranks;

use super::{GPU, serialize};
use fornax::distributed::DistributedRun;
use fornax::train_step::{CudaGraphMode, TrainStepOptions};
use fornax_engine::DType;
use fornax_kernels::emulator::{self, WorkCount};
use fornax_nn::{OptLevel, Precision};
use fornax_tests::model_step::ModelStep;
use fornax_tests::sweep;
use std::collections::BTreeMap;

/// Side of the images of the counted steps; all stages of the network divide it.
const SIDE: usize = 64;

/// Side of the images and batch size of the printed table.
const TABLE_SIDE: usize = 224;
const TABLE_BATCH: u64 = 256;

/// Bounds of the totals, slightly above the last count (`benches/results/launches-2026-11-25.md`).
const MAX_MEGABYTES: f64 = 293.0;
const MAX_LAUNCHES: u64 = 360;

/// Batch norms of the network.
const NORMS: u64 = 53;

/// Part of a run that the counted step has.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Variant {
    /// One process.
    Plain,
    /// A rank of `--sync-bn`.
    SyncBatchNorm,
    /// A rank whose gradients are averaged.
    DataParallel,
}

impl Variant {
    const ALL: [Variant; 3] = [Variant::Plain, Variant::SyncBatchNorm, Variant::DataParallel];

    /// Bounds of bytes per image and launches. A collective operation of one rank is a copy, and counts as one launch.
    fn bounds(self) -> (f64, u64) {
        match self {
            Variant::Plain => (MAX_MEGABYTES, MAX_LAUNCHES),
            // Per layer a gather and a merge in the forward pass, a reduction and the factors in the backward pass.
            Variant::SyncBatchNorm => (MAX_MEGABYTES + 1.0, MAX_LAUNCHES + 4 * NORMS),
            // Six buckets, each with one kernel and one reduction, and the reduction of the loss. The gradients of 25.6 M parameters are read in
            // half precision and written as f32, reduced, and read twice as f32 by the optimizer.
            Variant::DataParallel => (MAX_MEGABYTES + 2.5, MAX_LAUNCHES + 13),
        }
    }
}

/// Kinds of work, each with the prefixes of its names. The first match counts.
const KINDS: [(&str, &[&str]); 11] = [
    ("convolution, forward", &["a cuDNN convolution"]),
    ("convolution, data gradient", &["a cuDNN data gradient", "pointwise_data_gradient"]),
    ("convolution, weight gradient", &["a cuDNN weight gradient"]),
    (
        "batch norm, apply",
        &["batch_norm_fwd", "batch_norm_masked_fwd", "batch_norm_pair_fwd", "batch_norm_pool_fwd"],
    ),
    (
        "batch norm, statistics and merging",
        &["batch_norm_statistics", "batch_norm_moments", "batch_norm_finalize", "conv_norm", "sync_norm"],
    ),
    (
        "batch norm, backward sums",
        &["batch_norm_sums", "batch_norm_masked_sums", "batch_norm_pair_sums", "batch_norm_pool_sums"],
    ),
    ("batch norm, input gradient", &["batch_norm_bwd", "batch_norm_pair_bwd", "batch_norm_pool_bwd"]),
    ("gradient joins", &["add_f16"]),
    ("gradients into buckets", &["pack_"]),
    ("optimizer, casts of gradients", &["gradient_norm", "update_", "cast_f16_f32"]),
    ("rest", &[""]),
];

/// Bytes and launches of one kind of work in a step.
#[derive(Clone, Copy, Default)]
struct KindCost {
    launches: u64,
    /// Bytes that grow with the number of pixels, per image of [`TABLE_SIDE`].
    bytes_per_image: f64,
    /// All other bytes: those of parameters.
    bytes_per_step: f64,
}

impl KindCost {
    /// Megabytes per image in a batch of [`TABLE_BATCH`].
    fn megabytes(&self) -> f64 {
        (self.bytes_per_image + self.bytes_per_step / TABLE_BATCH as f64) / 1e6
    }
}

/// Work of one update with `images` images.
fn count(step: &mut ModelStep, images: usize) -> BTreeMap<String, WorkCount> {
    let batch = step.batch(images, SIDE).expect("memory");
    let before = emulator::work_counts();
    step.run(&batch).expect("a step");
    let mut counts = emulator::work_counts();
    for (name, count) in &mut counts {
        let old = before.get(name).copied().unwrap_or_default();
        count.executions -= old.executions;
        count.loads -= old.loads;
        count.stores -= old.stores;
    }
    // The checker's record of tensors is no launch.
    counts.retain(|name, count| count.executions > 0 && name != "suballocation");
    counts
}

fn resnet50(variant: Variant) -> ModelStep {
    let run = (variant != Variant::Plain).then(|| {
        let launch = ranks::launch(0, 1, ranks::free_port());
        let group = fornax::distributed::join(&launch, &ranks::identity()).expect("a group of one rank");
        DistributedRun::new(group, GPU).expect("NCCL")
    });
    let sync_bn = run.as_ref().filter(|_| variant == Variant::SyncBatchNorm);
    let options = TrainStepOptions {
        sync_bn: sync_bn.map(|run| run.collective.clone()),
        precision: Precision::new(OptLevel::O1, DType::F16),
        cuda_graph: CudaGraphMode::Never,
        ..TrainStepOptions::default()
    };
    let averaged = run.as_ref().filter(|_| variant == Variant::DataParallel);
    ModelStep::of_rank("resnet50", options, averaged, GPU).expect("a model")
}

/// Costs by kind. The counts of two batch sizes separate bytes per image from bytes per step.
fn costs(one: &BTreeMap<String, WorkCount>, two: &BTreeMap<String, WorkCount>) -> [KindCost; KINDS.len()] {
    let scale = (TABLE_SIDE * TABLE_SIDE) as f64 / (SIDE * SIDE) as f64;
    let mut costs = [KindCost::default(); KINDS.len()];
    for (name, count) in two {
        let kind = KINDS.iter().position(|(_, prefixes)| prefixes.iter().any(|p| name.starts_with(p)));
        let cost = &mut costs[kind.expect("the last kind has every prefix")];
        let bytes = |count: &WorkCount| (count.loads + count.stores) as f64;
        let (of_one, of_two) = (one.get(name).map_or(0.0, bytes), bytes(count));
        cost.launches += count.executions;
        cost.bytes_per_image += (of_two - of_one) * scale;
        cost.bytes_per_step += 2.0 * of_one - of_two;
    }
    costs
}

/// Launches alone, of a step with empty kernels.
#[test]
fn resnet50_step_stays_within_its_launches() {
    let _guard = serialize();
    for variant in Variant::ALL {
        let mut step = resnet50(variant);
        // Fused convolutions are used after a probe of their results, so the first step computes.
        count(&mut step, 1);
        emulator::set_empty_kernels(true).expect("the emulated device");
        let launches: u64 = count(&mut step, 1).values().map(|count| count.executions).sum();
        emulator::set_empty_kernels(false).expect("the emulated device");
        let (_, bound) = variant.bounds();
        println!("{variant:?}: {launches} launches");
        assert!(launches > 100 && launches <= bound, "{variant:?}: {launches} launches, more than {bound}");
    }
}

/// In a full sweep, as it counts every access to the parameters in four steps.
#[test]
fn resnet50_step_stays_within_its_traffic_and_launches() {
    if !sweep::is_full() {
        return;
    }
    let _guard = serialize();
    Variant::ALL.into_iter().for_each(check_traffic_and_launches);
}

fn check_traffic_and_launches(variant: Variant) {
    let mut step = resnet50(variant);
    // The first update casts all parameters, and that of each batch size plans convolutions.
    count(&mut step, 1);
    count(&mut step, 2);
    let (one, two) = (count(&mut step, 1), count(&mut step, 2));
    let costs = costs(&one, &two);
    println!("| ResNet-50, f16, batch {TABLE_BATCH}, {variant:?} | MB per image | launches |\n|---|--:|--:|");
    for ((kind, _), cost) in KINDS.iter().zip(&costs) {
        println!("| {kind} | {:.1} | {} |", cost.megabytes(), cost.launches);
    }
    let megabytes: f64 = costs.iter().map(KindCost::megabytes).sum();
    let launches: u64 = costs.iter().map(|cost| cost.launches).sum();
    println!("| total | {megabytes:.1} | {launches} |");
    let (max_megabytes, max_launches) = variant.bounds();
    assert!(
        megabytes <= max_megabytes,
        "{variant:?}: {megabytes:.1} MB per image, more than {max_megabytes}"
    );
    assert!(launches <= max_launches, "{variant:?}: {launches} launches, more than {max_launches}");
}
