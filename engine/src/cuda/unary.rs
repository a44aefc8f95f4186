//! Unary elementwise functions with up to two scalar parameters (`kernels/cu/elementwise/unary.cu`), and casts
//! (`kernels/cu/elementwise/cast.cu`).
use super::strided_pair::num_packs;
use super::{DeviceSlice, Gpu, Kernel, LaunchConfig, Result, args};

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

/// `y = x`, converted to y's dtype, which must differ from x's.
pub(crate) fn cast(gpu: &Gpu, x: DeviceSlice, y: DeviceSlice) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let grid = LaunchConfig::grid_stride(num_packs(x).max(num_packs(y)));
    gpu.launch(Kernel::new("cast", "cast").of(x.dtype).of(y.dtype), grid, args![x, y, x.len])
}
