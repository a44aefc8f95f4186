//! Layer norm and RMS norm (`kernels/cu/norm/row_norm.cu`).
use crate::DType;
use crate::cuda::launch::channels::{Chunks, is_long, merge_grid, row_grid};
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, Result, args, int};
use crate::ops::norm::cpu::RowNorm;
use std::sync::Arc;

/// `y = (x - mean) * inv * weight + bias`; `stats`, two f32 per row, receives mean and inv. Weight and bias have x's dtype, or are both
/// f32.
pub(crate) fn forward(
    gpu: &Gpu,
    norm: &RowNorm,
    x: DeviceSlice,
    [weight, bias]: [Option<DeviceSlice>; 2],
    y: DeviceSlice,
    stats: DeviceSlice,
) -> Result<()> {
    let rows = x.len / norm.n;
    let args = args![
        x,
        KernelArg::optional(weight),
        KernelArg::optional(bias),
        y,
        stats,
        rows,
        int(norm.n),
        i32::from(norm.centre),
        norm.eps as f32,
        is_f32(weight.or(bias)),
        i32::from(is_long(norm.n)),
    ];
    gpu.launch(Kernel::new(MODULE, "row_norm_fwd").of(x.dtype), row_grid(rows, norm.n), args)
}

/// The input's gradient.
pub(crate) fn backward(
    gpu: &Gpu,
    norm: &RowNorm,
    x: DeviceSlice,
    dy: DeviceSlice,
    weight: Option<DeviceSlice>,
    stats: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let rows = x.len / norm.n;
    let (centre, long) = (i32::from(norm.centre), i32::from(is_long(norm.n)));
    let args =
        args![x, dy, KernelArg::optional(weight), stats, dx, rows, int(norm.n), centre, is_f32(weight), long];
    gpu.launch(Kernel::new(MODULE, "row_norm_bwd").of(x.dtype), row_grid(rows, norm.n), args)
}

/// Gradients of weight and bias, of one dtype; `None` where not needed.
pub(crate) fn parameter_gradients(
    gpu: &Arc<Gpu>,
    norm: &RowNorm,
    x: DeviceSlice,
    dy: DeviceSlice,
    stats: DeviceSlice,
    [dweight, dbias]: [Option<DeviceSlice>; 2],
) -> Result<()> {
    let Some(dtype) = dweight.or(dbias).map(|slice| slice.dtype) else { return Ok(()) };
    let (n, rows) = (norm.n, x.len / norm.n);
    let chunks = Chunks::for_sums(rows, n, x.dtype);
    let partial = gpu.empty(chunks.count * 2 * n, DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    let args = args![x, dy, stats, partial, rows, int(n), int(chunks.rows)];
    gpu.launch(Kernel::new(MODULE, "row_norm_sums_bwd").of(x.dtype), chunks.grid(), args)?;
    let (dweight, dbias) = (KernelArg::optional(dweight), KernelArg::optional(dbias));
    let args = args![partial, int(chunks.count), int(n), dweight, dbias];
    gpu.launch(Kernel::new(MODULE, "row_norm_finalize_bwd").of(dtype), merge_grid(n), args)
}

const MODULE: &str = "row_norm";

/// 1 if a parameter is f32, else 0.
pub(super) fn is_f32(parameter: Option<DeviceSlice>) -> i32 {
    i32::from(parameter.is_some_and(|slice| slice.dtype == DType::F32))
}
