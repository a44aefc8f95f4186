//! Sums over an axis (`kernels/cu/reduce/reduce.cu`): in one launch, or, depending on the shape, in two with f32 sums of chunks between them.
use crate::DType;
use crate::cuda::launch::channels::{THREADS, is_long, row_grid};
use crate::cuda::{DeviceSlice, Gpu, Kernel, LaunchConfig, Result, args, int, memory::copy};
use std::sync::Arc;

/// `y[o, i] = factor * sum over j of x[o, j, i]`, for x `[outer, n, inner]`. x and y have one dtype, or one is f32 and the other f16 or
/// bf16.
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
    let chunk = if inner == 1 { row_chunk(outer, n) } else { ColumnLayout::new(inner, x).chunk(outer, n) };
    let chunks = n.div_ceil(chunk);
    if chunks == 1 {
        return sum_chunks(gpu, x, [outer, n, inner], n, factor, y);
    }
    let partial = gpu.empty(outer * chunks * inner, DType::F32)?;
    let partial = partial.as_slice(DType::F32);
    sum_chunks(gpu, x, [outer, n, inner], chunk, 1.0, partial)?;
    sum_chunks(gpu, partial, [outer, chunks, inner], chunks, factor, y)
}

/// Sums of chunks of `chunk` elements: `out` is `[outer, chunks, inner]`.
fn sum_chunks(
    gpu: &Gpu,
    x: DeviceSlice,
    [outer, n, inner]: [usize; 3],
    chunk: usize,
    factor: f64,
    out: DeviceSlice,
) -> Result<()> {
    let chunks = n.div_ceil(chunk);
    if inner == 1 {
        let grid = row_grid(outer * chunks, chunk);
        let is_long = i32::from(is_long(chunk));
        return gpu.launch(
            Kernel::new(MODULE, "sum_rows").of(x.dtype).of(out.dtype),
            grid,
            args![x, out, outer, n, chunk, is_long, factor as f32],
        );
    }
    let columns = ColumnLayout::new(inner, x);
    let grid = LaunchConfig::linear(columns.tiles * outer * chunks, THREADS);
    let arguments = args![x, out, n, int(inner), int(chunk), i32::from(columns.packed), factor as f32];
    gpu.launch(Kernel::new(MODULE, "sum_columns").of(x.dtype).of(out.dtype), grid, arguments)
}

const MODULE: &str = "reduce";

/// Minimum elements of a row's chunk; a multiple of the number that a block reads at once.
const MIN_ROW_CHUNK: usize = 1 << 14;

/// Number of blocks that fills a large device.
const TARGET_BLOCKS: usize = 1024;

/// Elements per chunk of a row.
fn row_chunk(rows: usize, n: usize) -> usize {
    let chunks = n.div_ceil(MIN_ROW_CHUNK).min(TARGET_BLOCKS.div_ceil(rows));
    n.div_ceil(chunks).next_multiple_of(MIN_ROW_CHUNK)
}

/// Mapping of blocks to columns, as `Tile` in the kernels.
struct ColumnLayout {
    packed: bool,
    tiles: usize,
    /// Rows read by a block at once.
    side: usize,
}

impl ColumnLayout {
    fn new(inner: usize, x: DeviceSlice) -> ColumnLayout {
        let pack = 16 / x.dtype.size();
        let packed = inner.is_multiple_of(pack) && x.pointer.is_multiple_of(16);
        let packs = if packed { inner / pack } else { inner };
        let lanes = packs.next_power_of_two().min(32);
        ColumnLayout { packed, tiles: packs.div_ceil(lanes), side: THREADS / lanes }
    }

    /// Rows per chunk of `n` rows.
    fn chunk(&self, outer: usize, n: usize) -> usize {
        let chunks = (TARGET_BLOCKS / (outer * self.tiles)).clamp(1, n.div_ceil(8 * self.side));
        n.div_ceil(chunks).next_multiple_of(self.side)
    }
}
