//! Unary elementwise functions with up to two scalar parameters (`kernels/cu/elementwise/unary.cu`).
use crate::cuda::launch::strided_pair::num_packs;
use crate::cuda::{DeviceSlice, Gpu, Kernel, LaunchConfig, Result, args};

/// `y = f(x, p, q)`, where `f` is a kernel's name; `y` may be `x`.
pub(crate) fn forward(
    gpu: &Gpu,
    f: &'static str,
    x: DeviceSlice,
    p: f64,
    q: f64,
    y: DeviceSlice,
) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    gpu.launch(
        Kernel::new("unary", f).of(x.dtype),
        LaunchConfig::grid_stride(num_packs(x)),
        args![x, y, x.len, p as f32, q as f32],
    )
}
