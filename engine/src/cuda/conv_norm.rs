//! Batch norm's statistics from the sums that a convolution left (`kernels/cu/conv_norm.cu`).
use super::batch_norm::BatchNormParameters;
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};

/// As [`super::batch_norm::statistics`], from `sums` `[2, c]` of `rows` rows: each channel's sum, and the sum of its squares.
pub(crate) fn statistics(
    gpu: &Gpu,
    (sums, rows): (DeviceSlice, usize),
    c: usize,
    parameters: &BatchNormParameters,
    momentum: Option<f64>,
    saved: DeviceSlice,
) -> Result<()> {
    let updated = parameters.running.filter(|_| momentum.is_some());
    let args = args![
        sums,
        rows,
        c as i32,
        Arg::optional(parameters.weight),
        Arg::optional(parameters.bias),
        Arg::optional(updated.map(|[mean, _]| mean)),
        Arg::optional(updated.map(|[_, var]| var)),
        momentum.unwrap_or(0.0) as f32,
        parameters.eps as f32,
        saved,
    ];
    let kernel = format!("conv_norm_finalize_{}", parameters.dtype());
    gpu.launch("conv_norm", &kernel, Grid::line(c.div_ceil(THREADS), THREADS), args)
}

const THREADS: usize = 256;
