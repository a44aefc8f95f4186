//! Soft-target and binary cross entropy (`kernels/cu/loss/soft_cross_entropy.cu`). The binary loss and its gradient are scalars of x's dtype.
use super::cross_entropy::{TopKCounts, mean_loss};
use crate::DType;
use crate::cuda::launch::channels::{THREADS, is_long, pack, row_grid};
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args, int};
use std::sync::Arc;

/// Computes the mean over rows of `-sum(t * log softmax(x))` (`loss`, one f32) and `saved` (two f32 per row) for the backward pass.
pub(crate) fn soft_forward(
    gpu: &Arc<Gpu>,
    x: DeviceSlice,
    target: DeviceSlice,
    saved: DeviceSlice,
    loss: DeviceSlice,
    counts: Option<TopKCounts>,
) -> Result<()> {
    let rows = saved.len / 2;
    let classes = x.len / rows;
    mean_loss(gpu, rows, loss, counts, |losses, ranks| {
        let (ranks, long) = (KernelArg::optional(ranks), i32::from(is_long(classes)));
        let args = args![x, target, losses, saved, ranks, rows, int(classes), long];
        gpu.launch(Kernel::new(MODULE, "soft_cross_entropy_fwd").of(x.dtype), row_grid(rows, classes), args)
    })
}

/// `dx = (softmax(x) * sum(t) - t) * grad / rows`; `grad` is one f32.
pub(crate) fn soft_backward(
    gpu: &Gpu,
    x: DeviceSlice,
    target: DeviceSlice,
    saved: DeviceSlice,
    grad: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let rows = saved.len / 2;
    let args = args![x, target, saved, grad, dx, rows, int(x.len / rows)];
    // No reduction over rows: a warp per row, whatever its length.
    gpu.launch(Kernel::new(MODULE, "soft_cross_entropy_bwd").of(x.dtype), row_grid(rows, 1), args)
}

/// Sum over all elements of the binary cross entropy of `sigmoid(x)` against `t`, divided by `divisor`.
pub(crate) fn binary_forward(
    gpu: &Arc<Gpu>,
    x: DeviceSlice,
    target: DeviceSlice,
    pos_weight: f64,
    divisor: usize,
    loss: DeviceSlice,
) -> Result<()> {
    let grid = element_grid(x);
    let partial = gpu.empty(grid.grid_dim[0] as usize, DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    let args = args![x, target, partial, x.len, (pos_weight - 1.0) as f32];
    gpu.launch(Kernel::new(MODULE, "binary_cross_entropy_fwd").of(x.dtype), grid, args)?;
    total(gpu, partial, divisor, loss)
}

/// `dx = ((1 - t) - (1 + (pos_weight - 1) t) * sigmoid(-x)) * grad / divisor`
pub(crate) fn binary_backward(
    gpu: &Gpu,
    x: DeviceSlice,
    target: DeviceSlice,
    pos_weight: f64,
    divisor: usize,
    grad: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let args = args![x, target, grad, dx, x.len, (pos_weight - 1.0) as f32, 1.0 / divisor as f32];
    gpu.launch(Kernel::new(MODULE, "binary_cross_entropy_bwd").of(x.dtype), element_grid(x), args)
}

const MODULE: &str = "soft_cross_entropy";

/// `loss = sum(partial) / divisor`
fn total(gpu: &Gpu, partial: DeviceSlice, divisor: usize, loss: DeviceSlice) -> Result<()> {
    let kernel = Kernel::new(MODULE, "soft_cross_entropy_total").of(loss.dtype);
    gpu.launch(kernel, LaunchConfig::linear(1, THREADS), args![partial, partial.len, divisor, loss])
}

/// Blocks with four packs of elements per thread; there is one partial sum per block.
fn element_grid(x: DeviceSlice) -> LaunchConfig {
    let packs = x.len / pack(x.len, x.dtype);
    LaunchConfig::linear(packs.div_ceil(4 * THREADS).clamp(1, 1024), THREADS)
}
