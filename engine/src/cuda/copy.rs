//! Moving elements of any dtype (`kernels/cu/copy.cu`).
use super::walk::{Walk, int, packs};
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::{DType, Element, Shape};

/// Every element `value`, rounded to the dtype.
pub(crate) fn fill(gpu: &Gpu, y: DeviceSlice, value: f64) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let bits: u64 = crate::ops::dispatch_any!(y.dtype, T => {
        let element = T::from_f64(value);
        let mut bytes = [0; 8];
        bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&element));
        u64::from_le_bytes(bytes)
    });
    let grid = Grid::stride(packs(y));
    gpu.launch(FAMILY, &kernel("fill", y.dtype), grid, args![y, y.len, Arg::of(&bits)])
}

/// Axis `a` of y is axis `axes[a]` of x, whose shape is `from`.
pub(crate) fn permute(gpu: &Gpu, x: DeviceSlice, from: &Shape, axes: &[usize], y: DeviceSlice) -> Result<()> {
    let (x_steps, extents) = (from.strides(), axes.iter().map(|axis| from[*axis]));
    let to = Shape::new(&extents.collect::<Vec<_>>());
    let y_steps = to.strides();
    let steps = |a: usize| (to[a], x_steps[axes[a]] as isize, y_steps[a] as isize);
    run(gpu, x, y, &Walk::new((0..axes.len()).map(steps), 0, 0))
}

/// y of shape `to`, where x advances by `steps` (0 where it is repeated).
pub(crate) fn expand(gpu: &Gpu, x: DeviceSlice, steps: &[usize], to: &Shape, y: DeviceSlice) -> Result<()> {
    let y_steps = to.strides();
    let axes = (0..to.rank()).map(|a| (to[a], steps[a] as isize, y_steps[a] as isize));
    run(gpu, x, y, &Walk::new(axes, 0, 0))
}

/// Copies the block of extents `block` at `from` in x, of shape `x_shape`, to `to` in y, of shape `y_shape`.
pub(crate) fn copy_block(
    gpu: &Gpu,
    (x, x_shape, from): (DeviceSlice, &Shape, &[usize]),
    (y, y_shape, to): (DeviceSlice, &Shape, &[usize]),
    block: &Shape,
) -> Result<()> {
    let (x_steps, y_steps) = (x_shape.strides(), y_shape.strides());
    let start = |steps: &[usize], at: &[usize]| steps.iter().zip(at).map(|(step, at)| step * at).sum();
    let axes = (0..block.rank()).map(|a| (block[a], x_steps[a] as isize, y_steps[a] as isize));
    run(gpu, x, y, &Walk::new(axes, start(&x_steps, from), start(&y_steps, to)))
}

/// Axis `axis` of x, whose shape is `shape`, in reverse order.
pub(crate) fn flip(gpu: &Gpu, x: DeviceSlice, shape: &Shape, axis: usize, y: DeviceSlice) -> Result<()> {
    let strides = shape.strides();
    let last = shape[axis].saturating_sub(1) * strides[axis];
    let axes = (0..shape.rank()).map(|a| {
        let step = strides[a] as isize;
        (shape[a], if a == axis { -step } else { step }, step)
    });
    run(gpu, x, y, &Walk::new(axes, last, 0))
}

fn run(gpu: &Gpu, x: DeviceSlice, y: DeviceSlice, walk: &Walk) -> Result<()> {
    if walk.is_empty() {
        return Ok(());
    }
    if let Some([batch, rows, columns]) = walk.as_transposition()
        && rows.min(columns) >= SMALLEST_MATRIX
    {
        let tiles = batch * rows.div_ceil(TILE) * columns.div_ceil(TILE);
        let grid = Grid::line(tiles.min(1 << 20), 256);
        let kernel = kernel("transpose", y.dtype);
        return gpu.launch(FAMILY, &kernel, grid, args![x, y, batch, int(rows)?, int(columns)?]);
    }
    for (walk, grid) in walk.launches(y.dtype) {
        gpu.launch(FAMILY, &kernel("copy", y.dtype), grid, args![x, y, Arg::of(&walk)])?;
    }
    Ok(())
}

const FAMILY: &str = "copy";

/// Side of the tiles of a transposition.
const TILE: usize = 32;

/// Thinner matrices would leave most of a tile empty.
const SMALLEST_MATRIX: usize = 8;

fn kernel(name: &str, dtype: DType) -> String {
    format!("{name}_b{}", 8 * dtype.size())
}
