//! Softmax cross entropy against class indices (`kernels/cu/loss/cross_entropy.cu`).
use crate::DType;
use crate::cuda::launch::channels::{THREADS, is_long, row_grid};
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args, int};
use std::sync::Arc;

/// Output for the numbers of rows whose target is among the 1 and the `k` highest logits: `[2]` i64.
#[derive(Clone, Copy)]
pub(crate) struct TopKCounts<'a> {
    pub(crate) k: usize,
    pub(crate) counts: DeviceSlice<'a>,
}

/// Computes the mean loss over rows (`loss`, one f32) and `log_sums` (one f32 per row) for the backward pass.
pub(crate) fn forward(
    gpu: &Arc<Gpu>,
    x: DeviceSlice,
    target: DeviceSlice,
    smoothing: f64,
    log_sums: DeviceSlice,
    loss: DeviceSlice,
    counts: Option<TopKCounts>,
) -> Result<()> {
    let (rows, classes) = (target.len, x.len / target.len);
    mean_loss(gpu, rows, loss, counts, |losses, ranks| {
        let (long, ranks) = (i32::from(is_long(classes)), KernelArg::optional(ranks));
        let args = args![x, target, losses, log_sums, ranks, rows, int(classes), smoothing as f32, long];
        gpu.launch(Kernel::new(MODULE, "cross_entropy_fwd").of(x.dtype), row_grid(rows, classes), args)
    })
}

/// Queues `forward`, which writes each row's loss and, if `counts` is given, its target's rank, and reduces these to `loss` and `counts`.
pub(super) fn mean_loss(
    gpu: &Arc<Gpu>,
    rows: usize,
    loss: DeviceSlice,
    counts: Option<TopKCounts>,
    forward: impl FnOnce(DeviceSlice, Option<DeviceSlice>) -> Result<()>,
) -> Result<()> {
    let losses = gpu.empty(rows, DType::F32)?;
    let ranks = counts.map(|_| gpu.empty(rows, DType::F32)).transpose()?;
    let (losses, ranks) =
        (losses.as_slice(DType::F32), ranks.as_ref().map(|ranks| ranks.as_slice(DType::F32)));
    forward(losses, ranks)?;
    let k = int(counts.map_or(0, |counts| counts.k.min(i32::MAX as usize)));
    let counts = KernelArg::optional(counts.map(|counts| counts.counts));
    let args = args![losses, KernelArg::optional(ranks), rows, k, loss, counts];
    gpu.launch(Kernel::new(MODULE, "cross_entropy_mean"), LaunchConfig::linear(1, THREADS), args)
}

/// `dx = (softmax(x) - smoothed one-hot) * grad / rows`; `grad` is one f32.
pub(crate) fn backward(
    gpu: &Gpu,
    x: DeviceSlice,
    target: DeviceSlice,
    smoothing: f64,
    log_sums: DeviceSlice,
    grad: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let (rows, classes) = (target.len, x.len / target.len);
    let args = args![x, target, log_sums, grad, dx, rows, int(classes), smoothing as f32];
    // No reduction over rows: a warp per row, whatever its length.
    gpu.launch(Kernel::new(MODULE, "cross_entropy_bwd").of(x.dtype), row_grid(rows, 1), args)
}

const MODULE: &str = "cross_entropy";
