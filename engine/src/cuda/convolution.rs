//! Plain convolution of any geometry and groups (`kernels/cu/convolution.cu`): what results of cuDNN are compared with, and the way
//! where cuDNN refuses.
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::{ConvShape, DType};
use std::sync::Arc;

/// The convolution, with a bias `[c_out]` if there is one.
pub(crate) fn forward(
    gpu: &Gpu,
    s: &ConvShape,
    x: DeviceSlice,
    weight: DeviceSlice,
    bias: Option<DeviceSlice>,
    y: DeviceSlice,
) -> Result<()> {
    let shape = geometry(s);
    let args = args![x, weight, Arg::optional(bias), y, Arg::of(&shape)];
    let grid = tiles(s.n * s.out_h() * s.out_w(), s.group_out(), s.groups);
    gpu.launch(FAMILY, &format!("convolution_fwd_{}", x.dtype), grid, args)
}

/// The gradient of the input.
pub(crate) fn data_gradient(
    gpu: &Gpu,
    s: &ConvShape,
    dy: DeviceSlice,
    weight: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let shape = geometry(s);
    let args = args![dy, weight, dx, Arg::of(&shape)];
    let grid = tiles(s.n * s.h * s.w, s.group_in(), s.groups);
    gpu.launch(FAMILY, &format!("convolution_data_bwd_{}", dy.dtype), grid, args)
}

/// The gradient of the weight. Its sum over pixels is cut into splits where the weight alone is too few blocks.
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
    let shape = geometry(s);
    let args = args![x, dy, partial, split_pixels, Arg::of(&shape)];
    let grid = tiles(s.group_out(), columns, s.groups * splits);
    gpu.launch(FAMILY, &format!("convolution_weight_bwd_{}", x.dtype), grid, args)?;
    let kernel = format!("convolution_finalize_bwd_{}", dw.dtype);
    let grid = Grid::line(dw.len.div_ceil(THREADS), THREADS);
    gpu.launch(FAMILY, &kernel, grid, args![partial, splits as i32, dw.len, dw])
}

const FAMILY: &str = "convolution";
const TILE: usize = 64;
const THREADS: usize = 256;

/// A block for each tile of a product's rows and columns, in each of `products`.
fn tiles(rows: usize, columns: usize, products: usize) -> Grid {
    let blocks = [rows.div_ceil(TILE).max(1), columns.div_ceil(TILE).max(1), products].map(|v| v as u32);
    Grid { blocks, threads: [THREADS as u32, 1, 1], shared: 0 }
}

/// `struct Conv` of the kernels.
fn geometry(s: &ConvShape) -> [i32; 16] {
    let [[kh, kw], [sh, sw], [ph, pw], [dh, dw]] = [s.kernel, s.stride, s.padding, s.dilation];
    [s.n, s.h, s.w, s.out_h(), s.out_w(), s.c_in, s.c_out, s.groups, kh, kw, sh, sw, ph, pw, dh, dw]
        .map(|v| v as i32)
}
