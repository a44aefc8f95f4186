//! Batch norm, activation and max pooling in one pass each way (`kernels/cu/batch_norm/batch_norm_pool.cu`).
use super::{BatchNormBackward, PartialResults, PassBefore, activation_code};
use crate::Activation;
use crate::cuda::launch::channels::{Chunks, pixel_grid};
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, Result, args, int};
use crate::ops::pool::PoolShape;
use crate::ops::pool::cuda::geometry;

/// Maximum of `f(x * scale + shift)` over each window, and its index within the window (u8).
pub(crate) fn forward(
    gpu: &Gpu,
    s: &PoolShape,
    [x, saved]: [DeviceSlice; 2],
    f: Activation,
    y: DeviceSlice,
    index: DeviceSlice,
) -> Result<()> {
    let (rows, shape) = (s.n * s.out[0], geometry(s, false)?);
    let args = args![x, saved, y, index, rows, &shape, activation_code(f)];
    let grid = pixel_grid(rows, s.out[1], s.c, x.dtype);
    gpu.launch(Kernel::new(MODULE, "batch_norm_pool_fwd").of(x.dtype), grid, args)
}

/// Backward pass of [`forward`] from the pooled gradient `dy` and `index`.
pub(crate) struct BatchNormPoolBackward<'a> {
    pub(crate) norm: BatchNormBackward<'a>,
    pub(crate) shape: PoolShape,
    pub(crate) dy: DeviceSlice<'a>,
    pub(crate) index: DeviceSlice<'a>,
}

impl BatchNormPoolBackward<'_> {
    /// [`BatchNormBackward::reduce`] of the gradients that the windows pass to their maxima.
    pub(crate) fn reduce(&self, parameters: [Option<DeviceSlice>; 2], factors: DeviceSlice) -> Result<()> {
        let BatchNormBackward { gpu, x, c, saved, activation, factors: kind } = self.norm;
        let rows = x.len / c;
        let chunks = Chunks::for_sums(rows, c, x.dtype);
        let partial = PartialResults::new(gpu, &chunks, c)?;
        let merge = partial.sums_merge(0, parameters, factors, kind);
        let shape = geometry(&self.shape, false)?;
        let (merge, shape) = (KernelArg::by_value(&merge), KernelArg::by_value(&shape));
        let f = activation_code(activation);
        let args = args![x, self.dy, self.index, saved, merge, rows, int(chunks.rows), shape, f];
        gpu.launch(Kernel::new(MODULE, "batch_norm_pool_sums_bwd").of(x.dtype), chunks.grid(), args)
    }

    /// Gradient of the input.
    pub(crate) fn input_gradient(&self, factors: DeviceSlice, dx: DeviceSlice) -> Result<()> {
        let BatchNormBackward { gpu, x, c, saved, activation, .. } = self.norm;
        let rows = x.len / c;
        let kernel = Kernel::new(MODULE, "batch_norm_pool_bwd").of(x.dtype);
        let chunks = PassBefore::Reduction.chunks(rows, c, x.dtype);
        let shape = geometry(&self.shape, false)?;
        let (shape, f) = (KernelArg::by_value(&shape), activation_code(activation));
        let args = args![x, self.dy, self.index, saved, factors, dx, rows, int(chunks.rows), shape, f];
        gpu.launch(kernel, chunks.backward_grid(gpu.resident_blocks(kernel)?), args)
    }
}

const MODULE: &str = "batch_norm_pool";
