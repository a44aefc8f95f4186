//! Max and average pooling (`kernels/cu/pool/pool.cu`).
use crate::cuda::launch::channels::pixel_grid;
use crate::cuda::launch::{to_i32, to_i32s};
use crate::cuda::{DeviceSlice, Gpu, Kernel, Result, args};
use crate::ops::pool::PoolShape;
use fornax_kernels::arguments::Pool;

/// Maximum of each window, and its index within the window (u8).
pub(crate) fn max_forward(
    gpu: &Gpu,
    s: &PoolShape,
    x: DeviceSlice,
    y: DeviceSlice,
    index: DeviceSlice,
) -> Result<()> {
    let rows = s.n * s.out[0];
    let grid = pixel_grid(rows, s.out[1], s.c, x.dtype);
    let kernel = Kernel::new(MODULE, "max_pool_fwd").of(x.dtype);
    gpu.launch(kernel, grid, args![x, y, index, rows, &geometry(s, false)?])
}

/// `dx`: for each pixel the sum of `dy` over the windows whose maximum it is.
pub(crate) fn max_backward(
    gpu: &Gpu,
    s: &PoolShape,
    dy: DeviceSlice,
    index: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let rows = s.n * s.size[0];
    let grid = pixel_grid(rows, s.size[1], s.c, dy.dtype);
    let kernel = Kernel::new(MODULE, "max_pool_bwd").of(dy.dtype);
    gpu.launch(kernel, grid, args![dy, index, dx, rows, &geometry(s, false)?])
}

/// For each window the pixel of `x` at its `index`; 0 for a window without pixels.
pub(crate) fn pick_maxima(
    gpu: &Gpu,
    s: &PoolShape,
    x: DeviceSlice,
    index: DeviceSlice,
    y: DeviceSlice,
) -> Result<()> {
    let rows = s.n * s.out[0];
    let grid = pixel_grid(rows, s.out[1], s.c, x.dtype);
    let kernel = Kernel::new(MODULE, "max_pool_pick").of(x.dtype);
    gpu.launch(kernel, grid, args![x, index, y, rows, &geometry(s, false)?])
}

/// Mean of each window; the divisor includes padding if `include_pad`.
pub(crate) fn avg_forward(
    gpu: &Gpu,
    s: &PoolShape,
    include_pad: bool,
    x: DeviceSlice,
    y: DeviceSlice,
) -> Result<()> {
    let rows = s.n * s.out[0];
    let grid = pixel_grid(rows, s.out[1], s.c, x.dtype);
    let kernel = Kernel::new(MODULE, "avg_pool_fwd").of(x.dtype);
    gpu.launch(kernel, grid, args![x, y, rows, &geometry(s, include_pad)?])
}

/// `dx`: for each pixel the sum of `dy / divisor` over the windows that cover it.
pub(crate) fn avg_backward(
    gpu: &Gpu,
    s: &PoolShape,
    include_pad: bool,
    dy: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let rows = s.n * s.size[0];
    let grid = pixel_grid(rows, s.size[1], s.c, dy.dtype);
    let kernel = Kernel::new(MODULE, "avg_pool_bwd").of(dy.dtype);
    gpu.launch(kernel, grid, args![dy, dx, rows, &geometry(s, include_pad)?])
}

const MODULE: &str = "pool";

/// Shape of a pooling operation, as its kernels take it.
pub(crate) fn geometry(s: &PoolShape, include_pad: bool) -> Result<Pool> {
    Ok(Pool {
        size: to_i32s(s.size)?,
        out: to_i32s(s.out)?,
        c: to_i32(s.c)?,
        kernel: to_i32s(s.pool.kernel)?,
        stride: to_i32s(s.pool.stride)?,
        padding: to_i32s(s.pool.padding)?,
        dilation: to_i32s(s.pool.dilation)?,
        count_include_pad: i32::from(include_pad),
    })
}
