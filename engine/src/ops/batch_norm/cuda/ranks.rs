//! Batch norm with the statistics of all ranks (`kernels/cu/batch_norm/sync_norm.cu`).
use super::{BatchNormParameters, RunningMomentum};
use crate::cuda::launch::channels::THREADS;
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args, int};

/// Merges the `moments` of all ranks, `[ranks, 2 c + 1]` ([`super::moments`]), into `saved` and the running statistics;
/// `count`, f32 `[1]`, becomes their number of values.
pub(crate) fn merge(
    gpu: &Gpu,
    moments: DeviceSlice,
    c: usize,
    parameters: &BatchNormParameters,
    momentum: RunningMomentum,
    [saved, count]: [DeviceSlice; 2],
) -> Result<()> {
    let (constant, batches) = momentum.arguments();
    let args = args![
        moments,
        int(moments.len / (2 * c + 1)),
        int(c),
        KernelArg::optional(parameters.weight),
        KernelArg::optional(parameters.bias),
        KernelArg::optional(parameters.running.map(|[mean, _]| mean)),
        KernelArg::optional(parameters.running.map(|[_, var]| var)),
        &batches,
        constant,
        parameters.eps as f32,
        saved,
        count,
    ];
    gpu.launch(Kernel::new(MODULE, "sync_norm_merge").of(parameters.dtype()), grid(c), args)
}

/// Replaces [sums](super::BackwardFactors::Sums) over all ranks by the factors of the input gradient.
pub(crate) fn factors(gpu: &Gpu, sums: DeviceSlice, saved: DeviceSlice, count: DeviceSlice) -> Result<()> {
    let c = sums.len / 2;
    gpu.launch(Kernel::new(MODULE, "sync_norm_factors"), grid(c), args![sums, saved, count, int(c)])
}

fn grid(c: usize) -> LaunchConfig {
    LaunchConfig::linear(c.div_ceil(THREADS), THREADS)
}

const MODULE: &str = "sync_norm";
