//! Batch norm statistics from the sums of a fused convolution (`kernels/cu/conv_norm.cu`).
use super::batch_norm::{BatchNormParameters, RunningMomentum};
use super::channels::merge_chunks;
use super::{DeviceSlice, Gpu, Kernel, KernelArg, Result, args, int};
use crate::DType;
use std::sync::Arc;

/// [`super::batch_norm::statistics`] of y, f16 or bf16, from its `sums` `[2, c]`: each channel's sum and sum of squares. Channels whose
/// variance the sums cannot give are read again, by all blocks of their tile.
pub(crate) fn statistics(
    gpu: &Arc<Gpu>,
    of: (DeviceSlice, DeviceSlice),
    c: usize,
    parameters: &BatchNormParameters,
    momentum: Option<RunningMomentum>,
    saved: DeviceSlice,
) -> Result<()> {
    finalize(gpu, of, c, (parameters, momentum), saved, false)
}

/// [`super::batch_norm::moments`] of y, from its `sums`.
pub(crate) fn moments(
    gpu: &Arc<Gpu>,
    of: (DeviceSlice, DeviceSlice),
    c: usize,
    moments: DeviceSlice,
) -> Result<()> {
    finalize(gpu, of, c, (&BatchNormParameters::default(), None), moments, true)
}

fn finalize(
    gpu: &Arc<Gpu>,
    (y, sums): (DeviceSlice, DeviceSlice),
    c: usize,
    (parameters, momentum): (&BatchNormParameters, Option<RunningMomentum>),
    output: DeviceSlice,
    writes_moments: bool,
) -> Result<()> {
    let updated = parameters.running.filter(|_| momentum.is_some());
    let (constant, batches) = momentum.map_or((0.0, 0), RunningMomentum::arguments);
    let rows = y.len / c;
    let (chunk_rows, grid) = merge_chunks(rows, c);
    let partial = gpu.empty(grid.grid_dim[1] as usize * 2 * c, DType::F64)?;
    let args = args![
        y,
        sums,
        partial.as_slice(DType::F64),
        gpu.tickets() as usize,
        rows,
        int(c),
        chunk_rows,
        KernelArg::optional(parameters.weight),
        KernelArg::optional(parameters.bias),
        KernelArg::optional(updated.map(|[mean, _]| mean)),
        KernelArg::optional(updated.map(|[_, var]| var)),
        batches as usize,
        constant,
        parameters.eps as f32,
        output,
        i32::from(writes_moments),
    ];
    let kernel = Kernel::new("conv_norm", "conv_norm_finalize").of(y.dtype).of(parameters.dtype());
    gpu.launch(kernel, grid, args)
}
