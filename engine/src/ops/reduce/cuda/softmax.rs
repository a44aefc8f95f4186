//! Softmax and log-softmax of rows (`kernels/cu/reduce/softmax.cu`).
use crate::cuda::launch::channels::{is_long, row_grid};
use crate::cuda::{DeviceSlice, Gpu, Kernel, Result, args, int};

/// `y = softmax(x)`, or log-softmax, of consecutive rows of `n` elements.
pub(crate) fn forward(gpu: &Gpu, x: DeviceSlice, n: usize, log: bool, y: DeviceSlice) -> Result<()> {
    let rows = x.len / n;
    let args = args![x, y, rows, int(n), i32::from(log), i32::from(is_long(n))];
    gpu.launch(Kernel::new("softmax", "softmax_fwd").of(x.dtype), row_grid(rows, n), args)
}

/// `dx = y (dy - sum(dy y))`, or for log-softmax `dx = dy - e^y sum(dy)`.
pub(crate) fn backward(
    gpu: &Gpu,
    y: DeviceSlice,
    dy: DeviceSlice,
    n: usize,
    log: bool,
    dx: DeviceSlice,
) -> Result<()> {
    let rows = y.len / n;
    let args = args![y, dy, dx, rows, int(n), i32::from(log), i32::from(is_long(n))];
    gpu.launch(Kernel::new("softmax", "softmax_bwd").of(y.dtype), row_grid(rows, n), args)
}
