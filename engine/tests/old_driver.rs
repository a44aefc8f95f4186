//! Training operations on an emulated driver for CUDA 12.2 with libraries of CUDA 12: it lacks functions that cudarc calls for newer
//! drivers.
use fornax_engine::cuda::cudnn::{ConvBenchmark, ConvEngineOptions, ConvPlanChoice};
use fornax_engine::cuda::{CudaGraph, KernelProfile, set_conv_engine_options};
use fornax_engine::{Conv2dOptions, Device, Result, Tensor};
use fornax_kernels::emulator;

#[test]
fn launches_timings_and_graphs_work_on_a_driver_for_cuda_12_2() -> Result<()> {
    let gpu = Device::Cuda(0);
    Device::emulated(1)?;
    emulator::set_cuda_versions(12_020, 12_000).expect("loaded");
    let benchmark = ConvBenchmark { disk_cache: false, ..ConvBenchmark::default() };
    let choice = ConvPlanChoice::Benchmark(benchmark);
    set_conv_engine_options(&gpu, ConvEngineOptions { tf32: false, deterministic: true, choice })?;
    let host = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|i: usize| (i * 7919 % 13) as f32 - 6.0);
        Tensor::from_vec(values.collect(), shape)
    };
    let (x, weight) = (host(&[1, 5, 5, 4])?, host(&[8, 3, 3, 4])?);
    let step = |x: &Tensor, weight: &Tensor| x.conv2d(weight, None, &Conv2dOptions::default())?.relu();
    let expected = step(&x, &weight)?.to_vec::<f32>()?;
    let (x, weight) = (x.to_device(&gpu)?, weight.to_device(&gpu)?);
    assert_eq!(step(&x, &weight)?.to_vec::<f32>()?, expected);
    let profile = KernelProfile::start(&gpu)?;
    let y = step(&x, &weight)?;
    assert_eq!(profile.finish()?.iter().map(|kernel| kernel.launches).sum::<usize>(), 2);
    let graph = CudaGraph::capture(&gpu, || y.copy_from(&step(&x, &weight)?))?;
    graph.replay()?;
    assert_eq!(y.to_vec::<f32>()?, expected);
    Ok(())
}
