//! Broadcasting functions of two elements (`kernels/cu/binary.cu`).
use super::walk::{Walk, packs};
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::Shape;

/// `y = f(a, b)`, where `f` names a kernel, for operands that walk under the result by these steps (0 where repeated). When nothing is
/// repeated, y may be in the place of an operand.
pub(crate) fn forward(
    gpu: &Gpu,
    f: &str,
    shape: &Shape,
    (a, a_steps): (DeviceSlice, &[usize]),
    (b, b_steps): (DeviceSlice, &[usize]),
    y: DeviceSlice,
) -> Result<()> {
    let steps = a_steps.iter().zip(b_steps).map(|(a, b)| (*a as isize, *b as isize));
    let walk = Walk::new(shape.iter().zip(steps).map(|(extent, (a, b))| (*extent, a, b)), 0, 0);
    if walk.is_dense() {
        return same_shape(gpu, f, a, b, y);
    }
    let kernel = format!("{f}_broadcast_{}", y.dtype);
    for (walk, grid) in walk.launches(y.dtype) {
        gpu.launch(FAMILY, &kernel, grid, args![a, b, y, Arg::of(&walk)])?;
    }
    Ok(())
}

/// `y = f(a, b)` for operands of one shape; y may be either.
pub(crate) fn same_shape(gpu: &Gpu, f: &str, a: DeviceSlice, b: DeviceSlice, y: DeviceSlice) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    gpu.launch(FAMILY, &format!("{f}_{}", y.dtype), Grid::stride(packs(y)), args![a, b, y, y.len])
}

/// Adds a vector to every row of `y`, in place.
pub(crate) fn add_to_rows(gpu: &Gpu, y: DeviceSlice, vector: DeviceSlice) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let shape = Shape::new(&[y.len / vector.len, vector.len]);
    forward(gpu, "add", &shape, (y, &[vector.len, 1]), (vector, &[0, 1]), y)
}

const FAMILY: &str = "binary";
