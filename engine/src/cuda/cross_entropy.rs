//! Softmax cross entropy against class indices (`kernels/cu/cross_entropy.cu`).
use super::channels::{THREADS, is_long, row_grid};
use super::{Gpu, Grid, Result, Slice, args};
use crate::DType;
use std::sync::Arc;

/// The mean loss over rows, one element of x's dtype; `log_sums`, a float a row, for backward.
pub(crate) fn forward(
    gpu: &Arc<Gpu>,
    x: Slice,
    target: Slice,
    smoothing: f64,
    log_sums: Slice,
    loss: Slice,
) -> Result<()> {
    let (rows, classes) = (target.len, x.len / target.len);
    let losses = gpu.scratch(rows, DType::F32)?;
    let losses = losses.whole(DType::F32);
    let long = i32::from(is_long(classes));
    let args = args![x, target, losses, log_sums, rows, classes as i32, smoothing as f32, long];
    gpu.launch(FAMILY, &format!("cross_entropy_fwd_{}", x.dtype), row_grid(rows, classes), args)?;
    let kernel = format!("cross_entropy_mean_{}", x.dtype);
    gpu.launch(FAMILY, &kernel, Grid::line(1, THREADS), args![losses, rows, loss])
}

/// `dx = (softmax(x) - smoothed one-hot) * grad / rows`; `grad` is one element.
pub(crate) fn backward(
    gpu: &Gpu,
    x: Slice,
    target: Slice,
    smoothing: f64,
    log_sums: Slice,
    grad: Slice,
    dx: Slice,
) -> Result<()> {
    let (rows, classes) = (target.len, x.len / target.len);
    let args = args![x, target, log_sums, grad, dx, rows, classes as i32, smoothing as f32];
    // No row is reduced: a warp has each, be it long.
    gpu.launch(FAMILY, &format!("cross_entropy_bwd_{}", x.dtype), row_grid(rows, 1), args)
}

const FAMILY: &str = "cross_entropy";
