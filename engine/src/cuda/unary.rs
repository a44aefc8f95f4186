//! Unary elementwise functions with up to two scalar parameters (`kernels/cu/unary.cu`), and casts (`kernels/cu/cast.cu`).
use super::strided_pair::num_packs;
use super::{DeviceSlice, Gpu, LaunchConfig, Result, args};

/// `y = f(x, p, q)`, where `f` is a kernel's name; `y` may be `x`.
pub(crate) fn forward(gpu: &Gpu, f: &str, x: DeviceSlice, p: f64, q: f64, y: DeviceSlice) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let kernel = format!("{f}_{}", x.dtype);
    gpu.launch(
        "unary",
        &kernel,
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
    gpu.launch("cast", &format!("cast_{}_{}", x.dtype, y.dtype), grid, args![x, y, x.len])
}
