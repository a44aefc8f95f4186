//! Cross entropies against distributions (`kernels/cu/soft_cross_entropy.cu`). The binary loss is one element of x's dtype, and so is
//! the gradient that comes back for it.
use super::channels::{THREADS, is_long, pack, row_grid};
use super::cross_entropy::{TopKCounts, mean_of};
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::DType;
use std::sync::Arc;

/// The mean over rows of `-sum(t * log softmax(x))`, one f32; `kept`, two floats a row, for backward.
pub(crate) fn soft_forward(
    gpu: &Arc<Gpu>,
    x: DeviceSlice,
    target: DeviceSlice,
    kept: DeviceSlice,
    loss: DeviceSlice,
    counts: Option<TopKCounts>,
) -> Result<()> {
    let rows = kept.len / 2;
    let classes = x.len / rows;
    mean_of(gpu, rows, loss, counts, |losses, ranks| {
        let (ranks, long) = (Arg::optional(ranks), i32::from(is_long(classes)));
        let args = args![x, target, losses, kept, ranks, rows, classes as i32, long];
        gpu.launch(FAMILY, &format!("soft_cross_entropy_fwd_{}", x.dtype), row_grid(rows, classes), args)
    })
}

/// `dx = (softmax(x) * sum(t) - t) * grad / rows`; `grad` is one f32.
pub(crate) fn soft_backward(
    gpu: &Gpu,
    x: DeviceSlice,
    target: DeviceSlice,
    kept: DeviceSlice,
    grad: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let rows = kept.len / 2;
    let args = args![x, target, kept, grad, dx, rows, (x.len / rows) as i32];
    // No row is reduced: a warp has each, be it long.
    gpu.launch(FAMILY, &format!("soft_cross_entropy_bwd_{}", x.dtype), row_grid(rows, 1), args)
}

/// The sum over all elements of the binary cross entropy of `sigmoid(x)` against `t`, divided by `divisor`.
pub(crate) fn binary_forward(
    gpu: &Arc<Gpu>,
    x: DeviceSlice,
    target: DeviceSlice,
    pos_weight: f64,
    divisor: usize,
    loss: DeviceSlice,
) -> Result<()> {
    let grid = element_grid(x);
    let partial = gpu.empty(grid.blocks[0] as usize, DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    let args = args![x, target, partial, x.len, (pos_weight - 1.0) as f32];
    gpu.launch(FAMILY, &format!("binary_cross_entropy_fwd_{}", x.dtype), grid, args)?;
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
    gpu.launch(FAMILY, &format!("binary_cross_entropy_bwd_{}", x.dtype), element_grid(x), args)
}

const FAMILY: &str = "soft_cross_entropy";

/// `loss = sum(partial) / divisor`
fn total(gpu: &Gpu, partial: DeviceSlice, divisor: usize, loss: DeviceSlice) -> Result<()> {
    let kernel = format!("soft_cross_entropy_total_{}", loss.dtype);
    gpu.launch(FAMILY, &kernel, Grid::line(1, THREADS), args![partial, partial.len, divisor, loss])
}

/// Blocks with four packs of elements a thread; their number is that of the partial sums.
fn element_grid(x: DeviceSlice) -> Grid {
    let packs = x.len / pack(x.len, x.dtype);
    Grid::line(packs.div_ceil(4 * THREADS).clamp(1, 1024), THREADS)
}
