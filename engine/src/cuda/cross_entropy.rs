//! Softmax cross entropy against class indices (`kernels/cu/cross_entropy.cu`).
use super::channels::{THREADS, is_long, row_grid};
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::DType;
use std::sync::Arc;

/// Where to count the rows whose target is among the `k` highest logits: `[2]` i64, for 1 and for k.
#[derive(Clone, Copy)]
pub(crate) struct TopKCounts<'a> {
    pub(crate) k: usize,
    pub(crate) counts: DeviceSlice<'a>,
}

/// The mean loss over rows, one f32; `log_sums`, a float a row, for backward.
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
    mean_of(gpu, rows, loss, counts, |losses, ranks| {
        let (long, ranks) = (i32::from(is_long(classes)), Arg::optional(ranks));
        let args = args![x, target, losses, log_sums, ranks, rows, classes as i32, smoothing as f32, long];
        gpu.launch(FAMILY, &format!("cross_entropy_fwd_{}", x.dtype), row_grid(rows, classes), args)
    })
}

/// The mean of the losses, and counts of the ranks where they are wanted, that `forward` queues to be written for each row.
pub(super) fn mean_of(
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
    let k = counts.map_or(0, |counts| counts.k.min(i32::MAX as usize) as i32);
    let counts = Arg::optional(counts.map(|counts| counts.counts));
    let args = args![losses, Arg::optional(ranks), rows, k, loss, counts];
    gpu.launch(FAMILY, "cross_entropy_mean", Grid::line(1, THREADS), args)
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
    let args = args![x, target, log_sums, grad, dx, rows, classes as i32, smoothing as f32];
    // No row is reduced: a warp has each, be it long.
    gpu.launch(FAMILY, &format!("cross_entropy_bwd_{}", x.dtype), row_grid(rows, 1), args)
}

const FAMILY: &str = "cross_entropy";
