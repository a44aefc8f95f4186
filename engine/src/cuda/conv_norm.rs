//! Batch norm statistics from the sums of a fused convolution (`kernels/cu/conv_norm.cu`).
use super::batch_norm::{BatchNormParameters, RunningMomentum};
use super::channels::merge_grid;
use super::{DeviceSlice, Gpu, Kernel, KernelArg, Result, args};
use crate::DType;

/// [`super::batch_norm::statistics`] of y, f16 or bf16, from its `sums` `[2, c]`: each channel's sum and sum of squares. Channels whose
/// variance the sums cannot give are read again.
pub(crate) fn statistics(
    gpu: &Gpu,
    (y, sums): (DeviceSlice, DeviceSlice),
    c: usize,
    parameters: &BatchNormParameters,
    momentum: Option<RunningMomentum>,
    saved: DeviceSlice,
) -> Result<()> {
    let updated = parameters.running.filter(|_| momentum.is_some());
    let (constant, batches) = momentum.map_or((0.0, 0), RunningMomentum::arguments);
    let args = args![
        y,
        sums,
        y.len / c,
        c as i32,
        KernelArg::optional(parameters.weight),
        KernelArg::optional(parameters.bias),
        KernelArg::optional(updated.map(|[mean, _]| mean)),
        KernelArg::optional(updated.map(|[_, var]| var)),
        batches as usize,
        constant,
        parameters.eps as f32,
        saved,
        0i32,
    ];
    gpu.launch(kernel(y.dtype, parameters.dtype()), merge_grid(c), args)
}

/// [`super::batch_norm::moments`] of y, from its `sums`.
pub(crate) fn moments(
    gpu: &Gpu,
    (y, sums): (DeviceSlice, DeviceSlice),
    c: usize,
    moments: DeviceSlice,
) -> Result<()> {
    let none = || KernelArg::optional(None);
    let args = args![
        y,
        sums,
        y.len / c,
        c as i32,
        none(),
        none(),
        none(),
        none(),
        0usize,
        0.0f32,
        0.0f32,
        moments,
        1i32
    ];
    gpu.launch(kernel(y.dtype, DType::F32), merge_grid(c), args)
}

fn kernel(input: DType, parameters: DType) -> Kernel {
    Kernel::new("conv_norm", "conv_norm_finalize").of(input).of(parameters)
}
