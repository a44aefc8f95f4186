//! Binary elementwise functions with broadcasting (`kernels/cu/elementwise/binary.cu`).
use crate::Shape;
use crate::cuda::launch::strided_pair::{StridedPair, num_packs};
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args};

/// `y = f(a, b)` with broadcasting. `f` is a kernel's name; each operand has a stride per axis of the result (0 along broadcast axes).
/// Without broadcasting, `y` may be `a` or `b`.
pub(crate) fn forward(
    gpu: &Gpu,
    f: &'static str,
    shape: &Shape,
    (a, a_strides): (DeviceSlice, &[usize]),
    (b, b_strides): (DeviceSlice, &[usize]),
    y: DeviceSlice,
) -> Result<()> {
    let strides = a_strides.iter().zip(b_strides).map(|(a, b)| (*a as isize, *b as isize));
    let pair = StridedPair::new(shape.iter().zip(strides).map(|(extent, (a, b))| (*extent, a, b)), 0, 0)?;
    if pair.is_dense() {
        return same_shape(gpu, f, a, b, y);
    }
    let kernel = Kernel::joined(MODULE, [f, "_broadcast", ""]).of(y.dtype);
    for (pair, grid) in pair.launches(y.dtype) {
        gpu.launch(kernel, grid, args![a, b, y, KernelArg::by_value(&pair)])?;
    }
    Ok(())
}

/// `y = f(a, b)` for operands of one shape; `y` may be `a` or `b`.
pub(crate) fn same_shape(
    gpu: &Gpu,
    f: &'static str,
    a: DeviceSlice,
    b: DeviceSlice,
    y: DeviceSlice,
) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    gpu.launch(
        Kernel::new(MODULE, f).of(y.dtype),
        LaunchConfig::grid_stride(num_packs(y)),
        args![a, b, y, y.len],
    )
}

/// Adds a vector to every row of `y`, in place.
pub(crate) fn add_to_rows(gpu: &Gpu, y: DeviceSlice, vector: DeviceSlice) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let shape = Shape::must_fit(&[y.len / vector.len, vector.len]);
    forward(gpu, "add", &shape, (y, &[vector.len, 1]), (vector, &[0, 1]), y)
}

const MODULE: &str = "binary";
