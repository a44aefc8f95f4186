//! Convolution plans of several ranks whose timings differ: all ranks use those of rank 0, so that runs repeat and resume bit for bit.
#[allow(dead_code)]
mod common;
#[allow(dead_code)]
#[path = "common/processes.rs"]
mod processes;
#[path = "common/ranks.rs"]
mod ranks;
#[path = "common/slow_engines.rs"]
mod slow_engines;
#[path = "common/small_dataset.rs"]
mod small_dataset;

use fornax::distributed::{DistributedRun, TcpCollective};
use fornax_engine::cuda::cudnn::{ConvBenchmark, ConvEngineOptions, ConvPlanChoice};
use fornax_engine::cuda::{conv_plan_record, set_conv_engine_options};
use fornax_engine::{Conv2dOptions, Device, Tensor};
use fornax_kernels::emulator::{EngineFault, plant_engine};
use processes::{Ranks, folder, torchrun_rank, train};
use ranks::on_ranks;
use slow_engines::{SLOW, VARIABLE, empty_cache};
use std::path::Path;
use std::sync::Arc;

const FLAGS: &str = "--device emulated:2 --sched constant --warmup-epochs 0 --print-hash";

/// Runs two ranks with a cache folder and a slow engine each; the hash.
fn hash(folder: &Path, cache: &Path, name: &str, slow: [&str; 2], arguments: &str) -> String {
    let command = |rank: usize, port| {
        let mut command = torchrun_rank(folder, arguments, rank, 2, port);
        command.env("XDG_CACHE_HOME", cache).env(VARIABLE, slow[rank]);
        command
    };
    Ranks::start_with(folder, name, 2, command).hash()
}

fn cache() -> tempfile::TempDir {
    let cache = tempfile::tempdir().expect("a folder");
    empty_cache(cache.path());
    cache
}

#[test]
fn runs_of_ranks_with_different_timings_repeat_and_resume_bit_for_bit() {
    let (folder, shared) = (folder(), cache());
    let folder = folder.path();
    let run = |cache: &Path, name: &str, slow, epochs: u32| {
        hash(folder, cache, name, slow, &format!("{} {FLAGS} --epochs {epochs}", train(name, 2)))
    };
    let first = run(shared.path(), "first", SLOW, 2);
    let slow_1 = [SLOW[1]; 2];
    assert_ne!(run(cache().path(), "timed-again", slow_1, 2), first, "the engines' results differ");
    assert_eq!(run(shared.path(), "again", slow_1, 2), first, "the plans of the cache folder");
    run(shared.path(), "half", slow_1, 1);
    let resume = format!("train --resume out/half --epochs 2 --progress none {FLAGS}");
    assert_eq!(
        hash(folder, cache().path(), "resumed", slow_1, &resume),
        first,
        "the plans of the checkpoint"
    );
}

#[test]
fn plans_of_rank_0_replace_those_of_other_ranks() {
    Device::emulated(2).expect("g++ is installed");
    let devices = [Device::Cuda(0), Device::Cuda(1)];
    let convolve_images = |images: usize, device: &Device| {
        let host = |shape: &[usize]| {
            let values = (0..shape.iter().product()).map(|i: usize| (i * 7919 % 1013) as f32 / 506.0 - 1.0);
            Tensor::from_vec(values.collect(), shape).and_then(|t| t.to_device(device)).expect("memory")
        };
        let same = Conv2dOptions { padding: [1, 1], ..Conv2dOptions::default() };
        let y = host(&[images, 7, 7, 24]).conv2d(&host(&[16, 3, 3, 24]), None, &same).expect("runs");
        y.to_vec::<f32>().expect("f32").into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let convolve = |device: &Device| convolve_images(2, device);
    let choices = |device: &Device| conv_plan_record(device).expect("a device").expect("used").choices;
    let timed = [1, 0].map(|slow: i64| {
        let device = &devices[1 - slow as usize];
        let benchmark = ConvBenchmark { disk_cache: false, ..ConvBenchmark::default() };
        let choice = ConvPlanChoice::Benchmark(benchmark);
        let options = ConvEngineOptions { tf32: false, deterministic: true, choice };
        set_conv_engine_options(device, options).expect("a device");
        for engine in [0, 1] {
            let milliseconds = if engine == slow { 50.0 } else { 0.0 };
            plant_engine(engine, milliseconds, EngineFault::None).expect("the emulated device is loaded");
        }
        (convolve(device), choices(device))
    });
    assert_ne!(timed[0].0, timed[1].0, "the engines' results differ in the last bits");
    assert_ne!(timed[0].1, timed[1].1);
    let shared = on_ranks(2, |group| {
        let device = devices[group.rank()];
        let collective = Arc::new(TcpCollective::new(group.clone()).expect("connects"));
        DistributedRun::over(group.clone(), collective, device).share_conv_plans().expect("shares");
        group.finish().expect("ends");
        (convolve(&device), choices(&device))
    });
    assert_eq!(shared, [timed[0].clone(), timed[0].clone()]);
    // A batch that skipped images have made smaller: the heuristics choose engine 0, which timing finds slow, and no choice is made.
    for (engine, milliseconds) in [(0, 50.0), (1, 0.0)] {
        plant_engine(engine, milliseconds, EngineFault::None).expect("the emulated device is loaded");
    }
    let [smaller, by_heuristics] = devices.map(|device| convolve_images(1, &device));
    assert_eq!(smaller, by_heuristics);
    assert_eq!(choices(&devices[0]), timed[0].1, "no rank has timed the smaller batch");
}
