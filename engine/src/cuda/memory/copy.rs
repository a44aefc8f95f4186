//! Fill and strided copies, for any dtype (`kernels/cu/shape/copy.cu`).
use crate::cuda::launch::strided_pair::{StridedPair, num_packs};
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args, int};
use crate::{DType, Element, Shape};

/// Sets every element to `value`, rounded to the dtype.
pub(crate) fn fill(gpu: &Gpu, y: DeviceSlice, value: f64) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let bits: u64 = crate::dtype::dispatch_any!(y.dtype, T => {
        let element = T::from_f64(value);
        let mut bytes = [0; 8];
        bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&element));
        u64::from_le_bytes(bytes)
    });
    let grid = LaunchConfig::grid_stride(num_packs(y));
    gpu.launch(kernel("fill", y.dtype), grid, args![y, y.len, KernelArg::by_value(&bits)])
}

/// Permutes axes: axis `a` of y is axis `axes[a]` of x, whose shape is `from`.
pub(crate) fn permute(gpu: &Gpu, x: DeviceSlice, from: &Shape, axes: &[usize], y: DeviceSlice) -> Result<()> {
    let (x_strides, extents) = (from.strides(), axes.iter().map(|axis| from[*axis]));
    let to = Shape::must_fit(&extents.collect::<Vec<_>>());
    let y_strides = to.strides();
    let strides = |a: usize| (to[a], x_strides[axes[a]] as isize, y_strides[a] as isize);
    copy_strided(gpu, x, y, &StridedPair::new((0..axes.len()).map(strides), 0, 0)?)
}

/// Broadcasts x to y of shape `to`; `strides` are those of x along each axis of y (0 along broadcast axes).
pub(crate) fn expand(gpu: &Gpu, x: DeviceSlice, strides: &[usize], to: &Shape, y: DeviceSlice) -> Result<()> {
    let y_strides = to.strides();
    let axes = (0..to.rank()).map(|a| (to[a], strides[a] as isize, y_strides[a] as isize));
    copy_strided(gpu, x, y, &StridedPair::new(axes, 0, 0)?)
}

/// Copies a block of shape `block` from offset `from` in x, of shape `x_shape`, to offset `to` in y, of shape `y_shape`.
pub(crate) fn copy_block(
    gpu: &Gpu,
    (x, x_shape, from): (DeviceSlice, &Shape, &[usize]),
    (y, y_shape, to): (DeviceSlice, &Shape, &[usize]),
    block: &Shape,
) -> Result<()> {
    let (x_strides, y_strides) = (x_shape.strides(), y_shape.strides());
    let start = |strides: &[usize], at: &[usize]| strides.iter().zip(at).map(|(step, at)| step * at).sum();
    let axes = (0..block.rank()).map(|a| (block[a], x_strides[a] as isize, y_strides[a] as isize));
    copy_strided(gpu, x, y, &StridedPair::new(axes, start(&x_strides, from), start(&y_strides, to))?)
}

/// Reverses axis `axis` of x, whose shape is `shape`.
pub(crate) fn flip(gpu: &Gpu, x: DeviceSlice, shape: &Shape, axis: usize, y: DeviceSlice) -> Result<()> {
    let strides = shape.strides();
    let last = shape[axis].saturating_sub(1) * strides[axis];
    let axes = (0..shape.rank()).map(|a| {
        let step = strides[a] as isize;
        (shape[a], if a == axis { -step } else { step }, step)
    });
    copy_strided(gpu, x, y, &StridedPair::new(axes, last, 0)?)
}

fn copy_strided(gpu: &Gpu, x: DeviceSlice, y: DeviceSlice, pair: &StridedPair) -> Result<()> {
    if pair.is_empty() {
        return Ok(());
    }
    if let Some([batch, rows, columns]) = pair.as_transpose()
        && rows.min(columns) >= MIN_TRANSPOSE_EXTENT
    {
        let tiles = batch * rows.div_ceil(TILE) * columns.div_ceil(TILE);
        let grid = LaunchConfig::linear(tiles.min(1 << 20), 256);
        let kernel = kernel("transpose", y.dtype);
        return gpu.launch(kernel, grid, args![x, y, batch, int(rows), int(columns)]);
    }
    for (pair, grid) in pair.launches(y.dtype) {
        gpu.launch(kernel("copy", y.dtype), grid, args![x, y, KernelArg::by_value(&pair)])?;
    }
    Ok(())
}

const MODULE: &str = "copy";

/// Side of a transposition's square tiles.
const TILE: usize = 32;

/// Minimum extent of a matrix for the transpose kernel; smaller ones would leave most of a tile empty.
const MIN_TRANSPOSE_EXTENT: usize = 8;

/// Kernel for elements of that size.
fn kernel(name: &'static str, dtype: DType) -> Kernel {
    let bits = match dtype.size() {
        1 => "_b8",
        2 => "_b16",
        4 => "_b32",
        _ => "_b64",
    };
    Kernel::joined(MODULE, [name, bits, ""])
}
