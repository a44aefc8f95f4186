//! Operations along the lines of an axis (`kernels/cu/lines.cu`): extremes, indexing, running sums and products.
use super::walk::int;
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::DType;
use crate::cpu::lines::Lines;
use std::sync::Arc;

/// Which elements are the first of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SortOrder {
    /// Smaller ones before larger ones.
    pub(crate) smallest: bool,
    /// NaN before all others, or behind them.
    pub(crate) nan_first: bool,
}

/// The first `k` elements of each line and their indices (i64), those of lower index first among equals. Either may be left out.
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
    // Lines side by side in memory share a block, so that reads are dense; the threads that are left share a line.
    let side = (THREADS / lines.inner.next_power_of_two().min(32)).min(lines.n.next_power_of_two());
    let lanes = THREADS / side;
    let grid = Grid::line(lines.count().div_ceil(lanes).min(1 << 16), THREADS);
    let [count, n, inner] = numbers(lines)?;
    let arguments = args![
        x,
        Arg::optional(values),
        Arg::optional(indices),
        count,
        n,
        inner,
        int(k)?,
        lanes as i32,
        i32::from(order.smallest),
        i32::from(order.nan_first),
    ];
    gpu.launch(FAMILY, &format!("select_{}", x.dtype), grid, arguments)
}

/// `y[line, j] = x[line, index[line, j]]`, with `k` indices a line, each within it.
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
    let [count, n, inner] = numbers(lines)?;
    let kernel = format!("gather_fwd_{}", x.dtype);
    gpu.launch(FAMILY, &kernel, Grid::stride(y.len), args![x, index, y, count, n, inner, int(k)?])
}

/// The transpose of [`gather`]: elements of one index are added in the order of `j`.
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
    let [count, n, inner] = numbers(lines)?;
    let kernel = format!("gather_bwd_{}", dy.dtype);
    gpu.launch(FAMILY, &kernel, Grid::stride(lines.count()), args![dy, index, dx, count, n, inner, int(k)?])
}

/// `y[row, class]` is `on` at the class of the row, else `off`.
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
    let arguments = args![index, y, index.len, int(classes)?, on as f32, off as f32];
    gpu.launch(FAMILY, &format!("one_hot_{}", y.dtype), Grid::stride(y.len), arguments)
}

/// Running sums along each line, from the other end when `reverse`.
pub(crate) fn cumsum(gpu: &Gpu, lines: Lines, x: DeviceSlice, reverse: bool, y: DeviceSlice) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let [count, n, inner] = numbers(lines)?;
    let kernel = format!("cumsum_{}", x.dtype);
    gpu.launch(FAMILY, &kernel, Grid::stride(lines.count()), args![x, y, count, n, inner, i32::from(reverse)])
}

/// The product of each line.
pub(crate) fn prod(gpu: &Gpu, lines: Lines, x: DeviceSlice, y: DeviceSlice) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let [count, n, inner] = numbers(lines)?;
    let kernel = format!("product_fwd_{}", x.dtype);
    gpu.launch(FAMILY, &kernel, Grid::stride(lines.count()), args![x, y, count, n, inner])
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
    // Eight bytes an element, for products in double precision.
    let behind = gpu.empty(x.len, DType::F64)?;
    let [count, n, inner] = numbers(lines)?;
    let arguments = args![x, dy, dx, behind.as_slice(DType::F64), count, n, inner];
    gpu.launch(FAMILY, &format!("product_bwd_{}", x.dtype), Grid::stride(lines.count()), arguments)
}

const FAMILY: &str = "lines";
const THREADS: usize = 256;

/// Number of lines, their length, and the distance between their elements.
fn numbers(lines: Lines) -> Result<[Arg<'static>; 3]> {
    Ok([Arg::from(lines.count()), Arg::from(int(lines.n)?), Arg::from(int(lines.inner)?)])
}
