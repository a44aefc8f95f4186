//! Candidates for a benchmark of convolutions from the cache folder.
//!
//! A separate process, with a cache folder of its own.
use fornax_engine::cuda::cudnn::{
    ConvBenchmark, ConvEngineOptions, ConvFusion, ConvKind, ConvPlanChoice, ConvProblem, GpuKind,
    plan_counts, store_plan_candidates,
};
use fornax_engine::cuda::{conv_plan_record, devices, set_conv_engine_options};
use fornax_engine::{Conv2dOptions, ConvAlgorithm, ConvShape, DType, Device, Result, Tensor};
use fornax_kernels::cache;
use std::os::unix::fs::symlink;

const SHAPE: ConvShape = ConvShape {
    n: 2,
    h: 9,
    w: 9,
    c_in: 8,
    c_out: 16,
    kernel: [3; 2],
    stride: [1; 2],
    padding: [1; 2],
    dilation: [1; 2],
    groups: 1,
    algorithm: ConvAlgorithm::Auto,
};

/// Output of the convolution with plans chosen by a benchmark.
fn convolve(device: &Device, benchmark: ConvBenchmark) -> Result<Vec<f32>> {
    let choice = ConvPlanChoice::Benchmark(benchmark);
    set_conv_engine_options(device, ConvEngineOptions { tf32: false, deterministic: true, choice })?;
    let full = |shape: [usize; 4], value| Tensor::full(shape, value, DType::F16, device);
    let (x, weight) = (full([2, 9, 9, 8], 0.5)?, full([16, 3, 3, 8], 0.25)?);
    let options = Conv2dOptions { padding: [1; 2], ..Conv2dOptions::default() };
    x.conv2d(&weight, None, &options)?.to_dtype(DType::F32)?.to_vec()
}

#[test]
fn stored_candidates_are_timed_and_damaged_ones_are_skipped() {
    let (shared, own) = (cache::folder(), tempfile::tempdir().expect("a folder"));
    std::fs::create_dir_all(own.path().join("fornax")).expect("a folder");
    // The build of the emulated device is that of other tests.
    for name in ["emulator", "emulated"] {
        std::fs::create_dir_all(shared.join(name)).expect("a folder");
        symlink(shared.join(name), own.path().join("fornax").join(name)).expect("a link");
    }
    // SAFETY: no other thread of this process reads variables.
    unsafe { std::env::set_var("XDG_CACHE_HOME", own.path()) };
    let devices_of = Device::emulated(2).map(|first| [first, Device::Cuda(1)]).expect("g++ is installed");
    let uncached = ConvBenchmark { disk_cache: false, ..ConvBenchmark::default() };
    let expected = convolve(&devices_of[0], uncached).expect("runs");
    assert_eq!(plan_counts().restored, 0);
    let record = conv_plan_record(&devices_of[0]).expect("a device").expect("plans");
    let json = record.choices.values().next().expect("a plan").clone();

    let info = devices().expect("emulated devices").remove(1);
    let kind = GpuKind { capability: info.capability, multiprocessors: info.multiprocessors };
    let benchmark = ConvBenchmark::default();
    let choice = ConvPlanChoice::Benchmark(benchmark);
    let problem = ConvProblem {
        kind: ConvKind::Forward,
        shape: SHAPE,
        dtype: DType::F16,
        alignment: 16,
        fusion: ConvFusion::default(),
        options: ConvEngineOptions { tf32: false, deterministic: true, choice },
    };
    store_plan_candidates(kind, record.cudnn, &problem, &["{}".into(), json]);
    assert_eq!(convolve(&devices_of[1], benchmark).expect("runs"), expected);
    let counts = plan_counts();
    assert_eq!((counts.restored, counts.rejected), (1, 1), "{counts:?}");
}
