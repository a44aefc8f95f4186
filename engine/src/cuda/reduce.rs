//! Sums over an axis (`kernels/cu/reduce.cu`), cut by shape: in one launch, or in two with the chunks' sums in f32 between.
use super::channels::{THREADS, is_long, row_grid};
use super::walk::int;
use super::{DeviceSlice, Gpu, Grid, Result, args, copy};
use crate::DType;
use std::sync::Arc;

/// `y[o, i] = factor * sum over j of x[o, j, i]`, for x `[outer, n, inner]`. Of f32 and a 16-bit dtype, either may be y's and x's.
pub(crate) fn sum(
    gpu: &Arc<Gpu>,
    x: DeviceSlice,
    [outer, n, inner]: [usize; 3],
    factor: f64,
    y: DeviceSlice,
) -> Result<()> {
    if outer * inner == 0 {
        return Ok(());
    }
    if n == 0 {
        return copy::fill(gpu, y, 0.0);
    }
    let cut = if inner == 1 { row_chunk(outer, n) } else { Columns::new(inner, x).chunk(outer, n) };
    let chunks = n.div_ceil(cut);
    if chunks == 1 {
        return pass(gpu, x, [outer, n, inner], n, factor, y);
    }
    let partial = gpu.empty(outer * chunks * inner, DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    pass(gpu, x, [outer, n, inner], cut, 1.0, partial)?;
    pass(gpu, partial, [outer, chunks, inner], chunks, factor, y)
}

/// Sums of chunks of `chunk` elements: out `[outer, chunks, inner]`.
fn pass(
    gpu: &Gpu,
    x: DeviceSlice,
    [outer, n, inner]: [usize; 3],
    chunk: usize,
    factor: f64,
    out: DeviceSlice,
) -> Result<()> {
    let dtypes = format!("{}_{}", x.dtype, out.dtype);
    let chunks = n.div_ceil(chunk);
    if inner == 1 {
        let grid = row_grid(outer * chunks, chunk);
        let is_long = i32::from(is_long(chunk));
        return gpu.launch(
            FAMILY,
            &format!("sum_rows_{dtypes}"),
            grid,
            args![x, out, outer, n, chunk, is_long, factor as f32],
        );
    }
    let columns = Columns::new(inner, x);
    let grid = Grid::line(int(columns.tiles * outer * chunks)? as usize, THREADS);
    let arguments = args![x, out, n, int(inner)?, int(chunk)?, i32::from(columns.packed), factor as f32];
    gpu.launch(FAMILY, &format!("sum_columns_{dtypes}"), grid, arguments)
}

const FAMILY: &str = "reduce";

/// Elements of a row that a block sums at least, before the row is cut; a multiple of what it reads at once.
const ROW: usize = 1 << 14;

/// Blocks that fill a large device.
const BLOCKS: usize = 1024;

/// Elements of the chunks of a row.
fn row_chunk(rows: usize, n: usize) -> usize {
    let chunks = n.div_ceil(ROW).min(BLOCKS.div_ceil(rows));
    n.div_ceil(chunks).next_multiple_of(ROW)
}

/// How a block stands over columns, as `Tile` of the kernels.
struct Columns {
    packed: bool,
    tiles: usize,
    /// Rows that a block reads at once.
    side: usize,
}

impl Columns {
    fn new(inner: usize, x: DeviceSlice) -> Columns {
        let pack = 16 / x.dtype.size();
        let packed = inner.is_multiple_of(pack) && x.pointer.is_multiple_of(16);
        let packs = if packed { inner / pack } else { inner };
        let lanes = packs.next_power_of_two().min(32);
        Columns { packed, tiles: packs.div_ceil(lanes), side: THREADS / lanes }
    }

    /// Rows of the chunks of `n` rows.
    fn chunk(&self, outer: usize, n: usize) -> usize {
        let chunks = (BLOCKS / (outer * self.tiles)).clamp(1, n.div_ceil(8 * self.side));
        n.div_ceil(chunks).next_multiple_of(self.side)
    }
}
