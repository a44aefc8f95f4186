//! Adaptive average and max pooling (`kernels/cu/pool/adaptive_pool.cu`).
use crate::DType;
use crate::cuda::launch::channels::{grid, pack, pixel_grid};
use crate::cuda::launch::{to_i32, to_i32s};
use crate::cuda::{DeviceSlice, Gpu, Kernel, LaunchConfig, Result, args, int};
use crate::ops::pool::AdaptivePool;
use fornax_kernels::arguments;

/// Mean of each window.
pub(crate) fn avg_forward(gpu: &Gpu, s: &AdaptivePool, x: DeviceSlice, y: DeviceSlice) -> Result<()> {
    let shape = geometry(s)?;
    let args = args![x, y, windows(s), &shape];
    gpu.launch(
        Kernel::new(MODULE, "adaptive_avg_pool_fwd").of(x.dtype),
        window_grid(windows(s), s.c, x.dtype),
        args,
    )
}

/// `dx`: for each pixel the sum of `dy / pixels of the window` over the windows that cover it.
pub(crate) fn avg_backward(gpu: &Gpu, s: &AdaptivePool, dy: DeviceSlice, dx: DeviceSlice) -> Result<()> {
    let rows = s.n * s.size[0];
    let grid = pixel_grid(rows, s.size[1], s.c, dy.dtype);
    let kernel = Kernel::new(MODULE, "adaptive_avg_pool_bwd").of(dy.dtype);
    gpu.launch(kernel, grid, args![dy, dx, rows, &geometry(s)?])
}

/// Maximum of each window; `chosen`, 4 bytes per window and channel, receives the index of its pixel within the image.
pub(crate) fn max_forward(
    gpu: &Gpu,
    s: &AdaptivePool,
    x: DeviceSlice,
    y: DeviceSlice,
    chosen: DeviceSlice,
) -> Result<()> {
    let shape = geometry(s)?;
    let args = args![x, y, chosen, windows(s), &shape];
    gpu.launch(
        Kernel::new(MODULE, "adaptive_max_pool_fwd").of(x.dtype),
        window_grid(windows(s), s.c, x.dtype),
        args,
    )
}

/// `dx`: for each pixel the sum of `dy` over the windows whose maximum it is.
pub(crate) fn max_backward(
    gpu: &Gpu,
    s: &AdaptivePool,
    dy: DeviceSlice,
    chosen: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    let rows = s.n * s.size[0];
    let grid = pixel_grid(rows, s.size[1], s.c, dy.dtype);
    let kernel = Kernel::new(MODULE, "adaptive_max_pool_bwd").of(dy.dtype);
    gpu.launch(kernel, grid, args![dy, chosen, dx, rows, &geometry(s)?])
}

/// For each window the pixel of `x` at the index in `chosen`.
pub(crate) fn pick_maxima(
    gpu: &Gpu,
    s: &AdaptivePool,
    x: DeviceSlice,
    chosen: DeviceSlice,
    y: DeviceSlice,
) -> Result<()> {
    let rows = s.n * s.out[0];
    let grid = pixel_grid(rows, s.out[1], s.c, x.dtype);
    let kernel = Kernel::new(MODULE, "adaptive_max_pool_pick").of(x.dtype);
    gpu.launch(kernel, grid, args![x, chosen, y, rows, &geometry(s)?])
}

/// Gradient of each image's maximum `y` `[n, c]`, distributed evenly between the pixels that equal it.
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
    let args = args![x, y, dy, dx, images, int(pixels), int(c)];
    gpu.launch(Kernel::new(MODULE, "amax_pool_bwd").of(x.dtype), window_grid(images, c, x.dtype), args)
}

const MODULE: &str = "adaptive_pool";

fn windows(s: &AdaptivePool) -> usize {
    s.n * s.out[0] * s.out[1]
}

/// One block per tile of channels (x) and window (y); at most 65535 blocks along y, which stride over the windows.
fn window_grid(windows: usize, c: usize, dtype: DType) -> LaunchConfig {
    grid((c / pack(c, dtype)).div_ceil(32), windows.min(u16::MAX.into()))
}

fn geometry(s: &AdaptivePool) -> Result<arguments::AdaptivePool> {
    Ok(arguments::AdaptivePool { size: to_i32s(s.size)?, out: to_i32s(s.out)?, c: to_i32(s.c)? })
}
