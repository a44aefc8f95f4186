//! Convolution as an implicit GEMM, for any geometry and groups (`kernels/cu/conv/implicit_gemm.cu`): the fallback for shapes that cuDNN
//! does not support, and the reference for its results.
use crate::cuda::launch::{grid_extent, to_i32, to_i32s};
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args, int};
use crate::{ConvShape, DType};
use fornax_kernels::arguments::Conv;
use std::sync::Arc;

/// Convolution, plus an optional bias `[c_out]`.
pub(crate) fn forward(
    gpu: &Gpu,
    s: &ConvShape,
    x: DeviceSlice,
    weight: DeviceSlice,
    bias: Option<DeviceSlice>,
    y: DeviceSlice,
) -> Result<()> {
    let shape = geometry(s)?;
    let args = args![x, weight, KernelArg::optional(bias), y, &shape];
    let grid = tiles(s.n * s.out_h() * s.out_w(), s.group_out(), s.groups);
    gpu.launch(Kernel::new(MODULE, "implicit_gemm_fwd").of(x.dtype), grid, args)
}

/// Gradient of the input.
pub(crate) fn data_gradient(
    gpu: &Gpu,
    s: &ConvShape,
    dy: DeviceSlice,
    weight: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let shape = geometry(s)?;
    let args = args![dy, weight, dx, &shape];
    let grid = tiles(s.n * s.h * s.w, s.group_in(), s.groups);
    gpu.launch(Kernel::new(MODULE, "implicit_gemm_data_bwd").of(dy.dtype), grid, args)
}

/// Gradient of the weight. Its sum over pixels is divided into splits if the weight alone makes too few blocks.
pub(crate) fn weight_gradient(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    x: DeviceSlice,
    dy: DeviceSlice,
    dw: DeviceSlice,
) -> Result<()> {
    let (columns, pixels) = (s.kernel[0] * s.kernel[1] * s.group_in(), s.n * s.out_h() * s.out_w());
    let blocks = s.group_out().div_ceil(TILE) * columns.div_ceil(TILE) * s.groups;
    let splits = (512 / blocks).clamp(1, pixels.div_ceil(256).max(1));
    let split_pixels = pixels.div_ceil(splits);
    let partial = gpu.empty(splits * dw.len, DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    let shape = geometry(s)?;
    let args = args![x, dy, partial, split_pixels, &shape];
    let grid = tiles(s.group_out(), columns, s.groups * splits);
    gpu.launch(Kernel::new(MODULE, "implicit_gemm_weight_bwd").of(x.dtype), grid, args)?;
    let kernel = Kernel::new(MODULE, "implicit_gemm_finalize_bwd").of(dw.dtype);
    let grid = LaunchConfig::linear(dw.len.div_ceil(THREADS), THREADS);
    gpu.launch(kernel, grid, args![partial, int(splits), dw.len, dw])
}

const MODULE: &str = "implicit_gemm";
const TILE: usize = 64;
const THREADS: usize = 256;

/// One block per tile of a GEMM's rows and columns and per GEMM of the batch.
fn tiles(rows: usize, columns: usize, batch: usize) -> LaunchConfig {
    let blocks = [rows.div_ceil(TILE).max(1), columns.div_ceil(TILE).max(1), batch].map(grid_extent);
    LaunchConfig {
        grid_dim: blocks,
        block_dim: [THREADS as u32, 1, 1],
        shared_mem_bytes: 0,
        is_grid_stride: false,
    }
}

fn geometry(s: &ConvShape) -> Result<Conv> {
    Ok(Conv {
        n: to_i32(s.n)?,
        input: to_i32s([s.h, s.w])?,
        output: to_i32s([s.out_h(), s.out_w()])?,
        c_in: to_i32(s.c_in)?,
        c_out: to_i32(s.c_out)?,
        groups: to_i32(s.groups)?,
        kernel: to_i32s(s.kernel)?,
        stride: to_i32s(s.stride)?,
        padding: to_i32s(s.padding)?,
        dilation: to_i32s(s.dilation)?,
    })
}
