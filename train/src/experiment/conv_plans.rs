//! cuDNN's convolution plans of a run: `--cudnn-benchmark`, `--deterministic`, and the plans in a checkpoint.
use crate::Result;
use crate::checkpoint::ConvPlans;
use crate::config::Config;
use fornax_engine::cuda::cudnn::{ConvBenchmark, ConvEngineOptions, ConvPlanChoice};
use fornax_engine::{Device, cuda};

/// Sets a CUDA device's options of convolutions.
pub fn set_options(config: &Config, device: &Device) -> Result<()> {
    if *device == Device::Cpu {
        return Ok(());
    }
    let options = ConvEngineOptions {
        tf32: false,
        deterministic: config.deterministic,
        choice: match config.cudnn_benchmark {
            true => ConvPlanChoice::Benchmark(ConvBenchmark::default()),
            false => ConvPlanChoice::Heuristic,
        },
    };
    Ok(cuda::set_conv_engine_options(device, options)?)
}

/// Restores the plans of a checkpoint. The result is a warning if they cannot be used on this device.
pub fn restore(device: &Device, plans: &ConvPlans) -> Result<Option<String>> {
    if *device == Device::Cpu || cuda::restore_conv_plans(device, &plans.clone().into())? {
        return Ok(None);
    }
    let (gpu, version) = (&plans.gpu, plans.cudnn);
    let version = format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100);
    Ok(Some(format!(
        "warning: the checkpoint's convolution plans are for {gpu} with cuDNN {version}, so they are timed again; results may differ in \
         the last bits"
    )))
}
