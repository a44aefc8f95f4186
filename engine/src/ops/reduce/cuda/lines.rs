//! Operations along an axis (`kernels/cu/reduce/lines.cu`): top-k, gather and scatter-add, one-hot, cumulative sum, product. A line is a 1-d
//! slice along the axis.
use crate::DType;
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args, int};
use crate::ops::reduce::Lines;
use std::sync::Arc;

/// Order of a line's elements; equal ones are ordered by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SortOrder {
    /// Ascending if true, else descending.
    pub(crate) smallest: bool,
    /// NaN first if true, else last.
    pub(crate) nan_first: bool,
}

/// First `k` elements of each line in an order, and their indices (i64). Either output may be `None`.
pub(crate) fn top_k(
    gpu: &Gpu,
    lines: Lines,
    x: DeviceSlice,
    k: usize,
    order: SortOrder,
    values: Option<DeviceSlice>,
    indices: Option<DeviceSlice>,
) -> Result<()> {
    if lines.count() * k == 0 {
        return Ok(());
    }
    // A block handles up to 32 adjacent lines, so that reads are coalesced; its threads are divided between them.
    let side = (THREADS / lines.inner.next_power_of_two().min(32)).min(lines.n.next_power_of_two());
    let lanes = THREADS / side;
    let grid = LaunchConfig::linear(lines.count().div_ceil(lanes).min(1 << 16), THREADS);
    let [count, n, inner] = shape_args(lines);
    let arguments = args![
        x,
        KernelArg::optional(values),
        KernelArg::optional(indices),
        count,
        n,
        inner,
        int(k),
        int(lanes),
        i32::from(order.smallest),
        i32::from(order.nan_first),
    ];
    gpu.launch(Kernel::new(MODULE, "top_k").of(x.dtype), grid, arguments)
}

/// `y[line, j] = x[line, index[line, j]]`, with `k` valid indices (i64) per line.
pub(crate) fn gather(
    gpu: &Gpu,
    lines: Lines,
    x: DeviceSlice,
    index: DeviceSlice,
    k: usize,
    y: DeviceSlice,
) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let [count, n, inner] = shape_args(lines);
    let kernel = Kernel::new(MODULE, "gather_fwd").of(x.dtype);
    gpu.launch(kernel, LaunchConfig::grid_stride(y.len), args![x, index, y, count, n, inner, int(k)])
}

/// Transpose of [`gather`]: `dx[line, index[line, j]] += dy[line, j]`, from zero and in the order of `j`.
pub(crate) fn scatter_add(
    gpu: &Gpu,
    lines: Lines,
    dy: DeviceSlice,
    index: DeviceSlice,
    k: usize,
    dx: DeviceSlice,
) -> Result<()> {
    if dx.len == 0 {
        return Ok(());
    }
    let [count, n, inner] = shape_args(lines);
    let kernel = Kernel::new(MODULE, "gather_bwd").of(dy.dtype);
    gpu.launch(
        kernel,
        LaunchConfig::grid_stride(lines.count()),
        args![dy, index, dx, count, n, inner, int(k)],
    )
}

/// `y[row, class]` is `on` where `class` is `index[row]`, else `off`.
pub(crate) fn one_hot(
    gpu: &Gpu,
    index: DeviceSlice,
    classes: usize,
    [on, off]: [f64; 2],
    y: DeviceSlice,
) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let arguments = args![index, y, index.len, int(classes), on as f32, off as f32];
    gpu.launch(Kernel::new(MODULE, "one_hot").of(y.dtype), LaunchConfig::grid_stride(y.len), arguments)
}

/// Cumulative sum along each line, from the last element to the first when `reverse`.
pub(crate) fn cumsum(gpu: &Gpu, lines: Lines, x: DeviceSlice, reverse: bool, y: DeviceSlice) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let [count, n, inner] = shape_args(lines);
    let kernel = Kernel::new(MODULE, "cumsum").of(x.dtype);
    gpu.launch(
        kernel,
        LaunchConfig::grid_stride(lines.count()),
        args![x, y, count, n, inner, i32::from(reverse)],
    )
}

/// Product of each line.
pub(crate) fn prod(gpu: &Gpu, lines: Lines, x: DeviceSlice, y: DeviceSlice) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let [count, n, inner] = shape_args(lines);
    let kernel = Kernel::new(MODULE, "prod_fwd").of(x.dtype);
    gpu.launch(kernel, LaunchConfig::grid_stride(lines.count()), args![x, y, count, n, inner])
}

/// `dx[line, j] = dy[line]` times the product of the line's other elements.
pub(crate) fn prod_backward(
    gpu: &Arc<Gpu>,
    lines: Lines,
    x: DeviceSlice,
    dy: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    // Suffix products, in f64.
    let suffix = gpu.empty(x.len, DType::F64)?;
    let [count, n, inner] = shape_args(lines);
    let arguments = args![x, dy, dx, suffix.as_slice(DType::F64), count, n, inner];
    gpu.launch(
        Kernel::new(MODULE, "prod_bwd").of(x.dtype),
        LaunchConfig::grid_stride(lines.count()),
        arguments,
    )
}

const MODULE: &str = "lines";
const THREADS: usize = 256;

/// Arguments that describe lines: their number, their length, and the stride between their elements.
fn shape_args(lines: Lines) -> [KernelArg<'static>; 3] {
    [KernelArg::from(lines.count()), int(lines.n), int(lines.inner)]
}
