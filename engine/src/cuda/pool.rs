//! Max and average pooling of images (`kernels/cu/pool.cu`).
use super::channels::pixel_grid;
use super::{Arg, DeviceSlice, Gpu, Result, args};
use crate::pool_shape::PoolShape;

/// The largest element of each window, and which one it was.
pub(crate) fn max_forward(
    gpu: &Gpu,
    s: &PoolShape,
    x: DeviceSlice,
    y: DeviceSlice,
    index: DeviceSlice,
) -> Result<()> {
    let rows = s.n * s.out[0];
    let grid = pixel_grid(rows, s.out[1], s.c, x.dtype);
    let kernel = format!("max_pool_fwd_{}", x.dtype);
    gpu.launch(FAMILY, &kernel, grid, args![x, y, index, rows, Arg::of(&geometry(s, false))])
}

/// Each pixel's gradient: the sum over the windows that chose it.
pub(crate) fn max_backward(
    gpu: &Gpu,
    s: &PoolShape,
    dy: DeviceSlice,
    index: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let rows = s.n * s.size[0];
    let grid = pixel_grid(rows, s.size[1], s.c, dy.dtype);
    let kernel = format!("max_pool_bwd_{}", dy.dtype);
    gpu.launch(FAMILY, &kernel, grid, args![dy, index, dx, rows, Arg::of(&geometry(s, false))])
}

/// The mean of each window; with `include_pad` the padding counts.
pub(crate) fn avg_forward(
    gpu: &Gpu,
    s: &PoolShape,
    include_pad: bool,
    x: DeviceSlice,
    y: DeviceSlice,
) -> Result<()> {
    let rows = s.n * s.out[0];
    let grid = pixel_grid(rows, s.out[1], s.c, x.dtype);
    let kernel = format!("avg_pool_fwd_{}", x.dtype);
    gpu.launch(FAMILY, &kernel, grid, args![x, y, rows, Arg::of(&geometry(s, include_pad))])
}

/// Each pixel's share of the gradients of the windows that cover it.
pub(crate) fn avg_backward(
    gpu: &Gpu,
    s: &PoolShape,
    include_pad: bool,
    dy: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let rows = s.n * s.size[0];
    let grid = pixel_grid(rows, s.size[1], s.c, dy.dtype);
    let kernel = format!("avg_pool_bwd_{}", dy.dtype);
    gpu.launch(FAMILY, &kernel, grid, args![dy, dx, rows, Arg::of(&geometry(s, include_pad))])
}

const FAMILY: &str = "pool";

/// `struct Pool` of the kernels.
fn geometry(s: &PoolShape, include_pad: bool) -> [i32; 14] {
    let ([h, w], [oh, ow], p) = (s.size, s.out, &s.pool);
    let [[kh, kw], [sh, sw], [ph, pw], [dh, dw]] = [p.kernel, p.stride, p.padding, p.dilation];
    [h, w, oh, ow, s.c, kh, kw, sh, sw, ph, pw, dh, dw, usize::from(include_pad)].map(|v| v as i32)
}
