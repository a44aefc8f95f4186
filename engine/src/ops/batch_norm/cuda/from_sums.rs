//! Batch norm statistics from the sums of a fused convolution (`kernels/cu/batch_norm/conv_norm.cu`).
use super::{BatchNormParameters, RunningMomentum};
use crate::DType;
use crate::cuda::launch::channels::{TICKETS, merge_chunks};
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, Result, args, int};
use fornax_kernels::arguments::{ConvNorm, ConvNorms};
use fornax_kernels::{Address, ByValue};
use std::sync::Arc;

/// Output y of a fused convolution, f16 or bf16, its `sums` `[2, c]` (each channel's sum and sum of squares), and its batch norm.
#[derive(Clone, Copy)]
pub(crate) struct SummedNorm<'a> {
    pub(crate) y: DeviceSlice<'a>,
    pub(crate) sums: DeviceSlice<'a>,
    pub(crate) parameters: BatchNormParameters<'a>,
    pub(crate) momentum: Option<RunningMomentum<'a>>,
    pub(crate) saved: DeviceSlice<'a>,
}

/// [`super::statistics`] of y from its sums, into `saved`. Channels whose variance the sums cannot give are read again, by all
/// blocks of their tile.
pub(crate) fn statistics(gpu: &Arc<Gpu>, norm: SummedNorm, c: usize) -> Result<()> {
    finalize(gpu, &[norm], c, false)
}

/// [`statistics`] of two batch norms with outputs of one shape and dtype and parameters of one dtype, which update different tensors, in one
/// launch.
pub(crate) fn pair_statistics(gpu: &Arc<Gpu>, norms: [SummedNorm; 2], c: usize) -> Result<()> {
    finalize(gpu, &norms, c, false)
}

/// [`super::moments`] of y, from its `sums`.
pub(crate) fn moments(
    gpu: &Arc<Gpu>,
    (y, sums): (DeviceSlice, DeviceSlice),
    c: usize,
    moments: DeviceSlice,
) -> Result<()> {
    let parameters = BatchNormParameters::default();
    finalize(gpu, &[SummedNorm { y, sums, parameters, momentum: None, saved: moments }], c, true)
}

/// True if one launch has enough tickets for two batch norms of `c` channels.
pub(crate) fn supports_pair(c: usize) -> bool {
    let (_, grid) = merge_chunks(1, c);
    grid.grid_dim[0] as usize <= TICKETS
}

fn finalize(gpu: &Arc<Gpu>, norms: &[SummedNorm], c: usize, writes_moments: bool) -> Result<()> {
    let (y, parameters) = (norms[0].y, norms[0].parameters);
    let rows = y.len / c;
    let (chunk_rows, mut grid) = merge_chunks(rows, c);
    let partial = gpu.empty(norms.len() * grid.grid_dim[1] as usize * 2 * c, DType::F64)?;
    let mut all = ConvNorms::zeroed();
    for (to, norm) in all.norms.iter_mut().zip(norms) {
        *to = argument(norm);
    }
    grid.grid_dim[2] = norms.len() as u32;
    let args = args![
        KernelArg::by_value(&all),
        partial.as_slice(DType::F64),
        gpu.tickets() as usize,
        rows,
        int(c),
        chunk_rows,
        i32::from(writes_moments),
    ];
    let kernel = Kernel::new("conv_norm", "conv_norm_finalize").of(y.dtype).of(parameters.dtype());
    gpu.launch(kernel, grid, args)
}

fn argument(norm: &SummedNorm) -> ConvNorm {
    let SummedNorm { y, sums, parameters, momentum, saved } = *norm;
    let [running_mean, running_var] = parameters.running_addresses(momentum.is_some());
    let (constant, batches) = momentum.map_or((0.0, Address::NULL), RunningMomentum::arguments);
    ConvNorm {
        y: y.into(),
        sums: sums.into(),
        weight: parameters.weight.map_or(Address::NULL, Address::from),
        bias: parameters.bias.map_or(Address::NULL, Address::from),
        running_mean,
        running_var,
        batches,
        saved: saved.into(),
        momentum: constant,
        eps: parameters.eps as f32,
    }
}
