//! Batch norm statistics from the sums of a fused convolution (`kernels/cu/conv_norm.cu`).
use super::batch_norm::{BatchNormParameters, RunningMomentum};
use super::{DeviceSlice, Gpu, KernelArg, LaunchConfig, Result, args};

/// [`super::batch_norm::statistics`] from `sums` `[2, c]` over `rows` rows: each channel's sum and sum of squares.
pub(crate) fn statistics(
    gpu: &Gpu,
    (sums, rows): (DeviceSlice, usize),
    c: usize,
    parameters: &BatchNormParameters,
    momentum: Option<RunningMomentum>,
    saved: DeviceSlice,
) -> Result<()> {
    let updated = parameters.running.filter(|_| momentum.is_some());
    let (constant, batches) = momentum.map_or((0.0, 0), RunningMomentum::arguments);
    let args = args![
        sums,
        rows,
        c as i32,
        KernelArg::optional(parameters.weight),
        KernelArg::optional(parameters.bias),
        KernelArg::optional(updated.map(|[mean, _]| mean)),
        KernelArg::optional(updated.map(|[_, var]| var)),
        batches as usize,
        constant,
        parameters.eps as f32,
        saved,
    ];
    let kernel = format!("conv_norm_finalize_{}", parameters.dtype());
    gpu.launch("conv_norm", &kernel, LaunchConfig::linear(c.div_ceil(THREADS), THREADS), args)
}

const THREADS: usize = 256;
