//! Functions of an element and two numbers (`kernels/cu/unary.cu`), and casts (`kernels/cu/cast.cu`).
use super::walk::packs;
use super::{DeviceSlice, Gpu, Grid, Result, args};

/// `y = f(x, p, q)`, where `f` names a kernel; `y` may be `x`.
pub(crate) fn forward(gpu: &Gpu, f: &str, x: DeviceSlice, p: f64, q: f64, y: DeviceSlice) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let kernel = format!("{f}_{}", x.dtype);
    gpu.launch("unary", &kernel, Grid::stride(packs(x)), args![x, y, x.len, p as f32, q as f32])
}

/// `y = x` in y's dtype, which is another than x's.
pub(crate) fn cast(gpu: &Gpu, x: DeviceSlice, y: DeviceSlice) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let grid = Grid::stride(packs(x).max(packs(y)));
    gpu.launch("cast", &format!("cast_{}_{}", x.dtype, y.dtype), grid, args![x, y, x.len])
}
