//! Comparisons and choices by a mask (`kernels/cu/elementwise/compare.cu`).
use crate::cuda::{DeviceSlice, Gpu, Kernel, LaunchConfig, Result, args};

/// `y = a ? b` for a comparison by its kernel's name. Operands have as many elements as `y`, or one.
pub(crate) fn compare(
    gpu: &Gpu,
    f: &'static str,
    a: DeviceSlice,
    b: DeviceSlice,
    y: DeviceSlice,
) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let args = args![a, b, y, y.len, step(a), step(b)];
    gpu.launch(Kernel::new(MODULE, f).of(a.dtype), LaunchConfig::grid_stride(y.len), args)
}

/// `y = a` where the mask is not 0, else `b`. The mask has as many elements as `y`, `a` and `b` have as many, or one.
pub(crate) fn choose(
    gpu: &Gpu,
    mask: DeviceSlice,
    a: DeviceSlice,
    b: DeviceSlice,
    y: DeviceSlice,
) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let args = args![mask, a, b, y, y.len, step(a), step(b)];
    gpu.launch(Kernel::new(MODULE, "where").of(y.dtype), LaunchConfig::grid_stride(y.len), args)
}

const MODULE: &str = "compare";

/// Distance of successive elements: 0 for one that is repeated.
fn step(operand: DeviceSlice) -> i32 {
    i32::from(operand.len > 1)
}
