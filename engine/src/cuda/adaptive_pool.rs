//! Pooling of images to a given size (`kernels/cu/adaptive_pool.cu`).
use super::channels::{grid, pack, pixel_grid};
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::DType;
use crate::cpu::adaptive_pool::AdaptivePool;

/// The mean of each window.
pub(crate) fn avg_forward(gpu: &Gpu, s: &AdaptivePool, x: DeviceSlice, y: DeviceSlice) -> Result<()> {
    let shape = geometry(s);
    let args = args![x, y, windows(s), Arg::of(&shape)];
    gpu.launch(
        FAMILY,
        &format!("adaptive_avg_pool_fwd_{}", x.dtype),
        window_grid(windows(s), s.c, x.dtype),
        args,
    )
}

/// Each pixel's share of the gradients of the windows that cover it.
pub(crate) fn avg_backward(gpu: &Gpu, s: &AdaptivePool, dy: DeviceSlice, dx: DeviceSlice) -> Result<()> {
    let rows = s.n * s.size[0];
    let grid = pixel_grid(rows, s.size[1], s.c, dy.dtype);
    let kernel = format!("adaptive_avg_pool_bwd_{}", dy.dtype);
    gpu.launch(FAMILY, &kernel, grid, args![dy, dx, rows, Arg::of(&geometry(s))])
}

/// The largest element of each window, and in `chosen`, of 4 bytes a window and channel, its pixel.
pub(crate) fn max_forward(
    gpu: &Gpu,
    s: &AdaptivePool,
    x: DeviceSlice,
    y: DeviceSlice,
    chosen: DeviceSlice,
) -> Result<()> {
    let shape = geometry(s);
    let args = args![x, y, chosen, windows(s), Arg::of(&shape)];
    gpu.launch(
        FAMILY,
        &format!("adaptive_max_pool_fwd_{}", x.dtype),
        window_grid(windows(s), s.c, x.dtype),
        args,
    )
}

/// Each pixel's gradient: the sum over the windows that chose it.
pub(crate) fn max_backward(
    gpu: &Gpu,
    s: &AdaptivePool,
    dy: DeviceSlice,
    chosen: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let rows = s.n * s.size[0];
    let grid = pixel_grid(rows, s.size[1], s.c, dy.dtype);
    let kernel = format!("adaptive_max_pool_bwd_{}", dy.dtype);
    gpu.launch(FAMILY, &kernel, grid, args![dy, chosen, dx, rows, Arg::of(&geometry(s))])
}

/// The gradient of each image's maximum `y` `[n, c]`, shared evenly by the pixels that equal it.
pub(crate) fn amax_backward(
    gpu: &Gpu,
    c: usize,
    x: DeviceSlice,
    y: DeviceSlice,
    dy: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let images = y.len / c;
    let pixels = x.len / y.len;
    let args = args![x, y, dy, dx, images, pixels as i32, c as i32];
    gpu.launch(FAMILY, &format!("shared_max_pool_bwd_{}", x.dtype), window_grid(images, c, x.dtype), args)
}

const FAMILY: &str = "adaptive_pool";

fn windows(s: &AdaptivePool) -> usize {
    s.n * s.out[0] * s.out[1]
}

/// Blocks that have a window each, or go on to others where there are many, and a tile of channels.
fn window_grid(windows: usize, c: usize, dtype: DType) -> Grid {
    grid((c / pack(c, dtype)).div_ceil(32), windows.min(u16::MAX.into()))
}

/// `struct AdaptivePool` of the kernels.
fn geometry(s: &AdaptivePool) -> [i32; 5] {
    [s.size[0], s.size[1], s.out[0], s.out[1], s.c].map(|v| v as i32)
}
