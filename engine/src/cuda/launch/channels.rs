//! Launch configurations of kernels over rows of channels (`kernels/cu/channels.cuh`, `rows.cuh`). Those of passes with sums depend on shape
//! and dtype alone, as their division decides the last bits; those of elementwise passes also depend on the device.
use crate::DType;
use crate::cuda::LaunchConfig;
use crate::cuda::launch::grid_extent;
use fornax_kernels::arguments::MERGE_GROUP;

/// Threads per block.
pub(crate) const THREADS: usize = 256;

/// Maximum number of threads along the channels of a block.
const MAX_LANES: usize = 32;

/// Maximum number of blocks of a pass that computes sums: enough to fill a large device, few enough to merge quickly. It is not taken from
/// the device's occupancy, because the order of additions, and with it the last bits of a sum, would depend on the device.
const MAX_SUM_BLOCKS: usize = 512;

/// Maximum number of columns of a grid, each with tickets of its own.
const MAX_COLUMNS: usize = 512;

/// Adjacent channels of a block that merges partial results: `kMergeLanes` in the kernels.
const MERGE_LANES: usize = 16;

/// Number of tickets of a merge: each column of a grid has one, and one more for each group of chunks.
pub(crate) const TICKETS: usize = 2 * MAX_COLUMNS + MAX_SUM_BLOCKS;

/// Adjacent channels per thread: 16 bytes if rows consist of whole packs, otherwise 1.
pub(crate) fn pack(c: usize, dtype: DType) -> usize {
    let pack = 16 / dtype.size();
    if c.is_multiple_of(pack) { pack } else { 1 }
}

/// Division of rows of channels into chunks of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// Number of chunks.
    pub count: usize,
    /// Rows per chunk; the last may have fewer.
    pub rows: usize,
    /// Blocks along the channels.
    tiles: usize,
}

impl Chunks {
    /// Chunks for a kernel that sums over rows.
    pub fn for_sums(rows: usize, c: usize, dtype: DType) -> Chunks {
        Chunks::new(rows, c, dtype, MAX_SUM_BLOCKS)
    }

    /// One chunk, of all rows.
    pub fn whole(rows: usize, c: usize, dtype: DType) -> Chunks {
        Chunks::whole_by_packs(rows, c / pack(c, dtype))
    }

    /// [`Chunks::for_sums`] with one of `packs` groups of channels per thread.
    pub fn for_sums_by_packs(rows: usize, packs: usize) -> Chunks {
        Chunks::by_packs(rows, packs, MAX_SUM_BLOCKS)
    }

    /// [`Chunks::whole`] with one of `packs` groups of channels per thread.
    pub fn whole_by_packs(rows: usize, packs: usize) -> Chunks {
        let per_chunk = rows.min(1 << 30);
        Chunks { count: rows.div_ceil(per_chunk), rows: per_chunk, tiles: tiles(packs) }
    }

    /// Chunks of whole tiles of `tile[0]` rows, for a kernel that sums over rows with a column of blocks per `tile[1]` channels.
    pub fn for_sums_by_tiles(rows: usize, c: usize, tile: [usize; 2]) -> Chunks {
        let tiles = c.div_ceil(tile[1]);
        let chunks = (MAX_SUM_BLOCKS / tiles).max(1);
        let per_chunk = rows.div_ceil(tile[0]).div_ceil(chunks).max(1) * tile[0];
        Chunks { count: rows.div_ceil(per_chunk), rows: per_chunk, tiles }
    }

    /// Chunks for about `blocks` blocks at most, with at least four rows per thread.
    pub fn new(rows: usize, c: usize, dtype: DType, blocks: usize) -> Chunks {
        Chunks::by_packs(rows, c / pack(c, dtype), blocks)
    }

    fn by_packs(rows: usize, packs: usize, blocks: usize) -> Chunks {
        let tiles = tiles(packs);
        let (side, chunks) = (THREADS / lanes(packs), (blocks / tiles).max(1));
        let per_chunk = rows.div_ceil(chunks).max(4 * side).next_multiple_of(side);
        Chunks { count: rows.div_ceil(per_chunk), rows: per_chunk, tiles }
    }

    /// Grid of an elementwise kernel that walks these chunks backwards (`for_rows_backwards` in the kernels), of which `resident` blocks are
    /// on the device at once. With more blocks each thread would load the per-channel parameters for fewer rows.
    pub fn backward_grid(&self, resident: usize) -> LaunchConfig {
        let all_rows = self.count * self.rows;
        let least = 4 * THREADS / MAX_LANES;
        grid(self.tiles.min(MAX_COLUMNS), (resident / self.tiles).clamp(1, all_rows.div_ceil(least)))
    }

    /// One block per tile of channels (x) and chunk (y); a block has several tiles if there are very many.
    pub fn grid(&self) -> LaunchConfig {
        grid(self.tiles.min(MAX_COLUMNS), self.count)
    }

    /// Number of groups of chunks whose results one block merges (`kernels/cu/column_merge.cuh`).
    pub fn merge_groups(&self) -> usize {
        self.count.div_ceil(MERGE_GROUP)
    }

    /// One block per chunk of each image (x) and tile of channels (y).
    pub fn image_grid(&self, images: usize) -> LaunchConfig {
        grid(self.count * images, self.tiles)
    }
}

/// Number of threads along the channels of a block.
fn lanes(packs: usize) -> usize {
    packs.next_power_of_two().min(MAX_LANES)
}

/// Number of blocks along the channels.
fn tiles(packs: usize) -> usize {
    packs.div_ceil(lanes(packs))
}

/// Rows per chunk, and grid of a kernel with blocks of [`MERGE_LANES`] channels (x), each for a chunk of rows (y).
pub(crate) fn merge_chunks(rows: usize, c: usize) -> (usize, LaunchConfig) {
    let tiles = c.div_ceil(MERGE_LANES);
    let chunks = (MAX_SUM_BLOCKS / tiles).clamp(1, rows.div_ceil(THREADS));
    let per_chunk = rows.div_ceil(chunks);
    (per_chunk, grid(tiles, rows.div_ceil(per_chunk)))
}

/// Configuration of a kernel that merges the partial results of chunks for `c` channels.
pub(crate) fn merge_grid(c: usize) -> LaunchConfig {
    LaunchConfig::linear(c.div_ceil(MERGE_LANES), THREADS)
}

/// Configuration for `rows` rows (y) of `width` pixels (x) of `c` channels.
pub(crate) fn pixel_grid(rows: usize, width: usize, c: usize, dtype: DType) -> LaunchConfig {
    grid((width * c / pack(c, dtype)).div_ceil(THREADS), rows.min(u16::MAX.into()))
}

/// True if a row of `n` elements is reduced by a block, false if by a warp.
pub(crate) fn is_long(n: usize) -> bool {
    n > 2048
}

/// Configuration for rows of `n` elements, each reduced by a warp or, if long, by a block.
pub(crate) fn row_grid(rows: usize, n: usize) -> LaunchConfig {
    let at_once = if is_long(n) { 1 } else { THREADS / 32 };
    LaunchConfig::linear(rows.div_ceil(at_once).clamp(1, 1 << 16), THREADS)
}

/// Two-dimensional grid of blocks of [`THREADS`] threads.
pub(crate) fn grid(x: usize, y: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: [grid_extent(x.max(1)), grid_extent(y.max(1)), 1],
        block_dim: [THREADS as u32, 1, 1],
        shared_mem_bytes: 0,
        is_grid_stride: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_all_rows_within_the_block_limit() {
        for dtype in [DType::F32, DType::F16] {
            for c in [1, 3, 8, 24, 64, 96, 576, 2048, 10_000] {
                for rows in [1, 2, 63, 1000, 49 * 32, 112 * 112 * 256] {
                    let chunks = Chunks::for_sums(rows, c, dtype);
                    assert!(chunks.count * chunks.rows >= rows && (chunks.count - 1) * chunks.rows < rows);
                    assert!(
                        chunks.count * chunks.tiles <= MAX_SUM_BLOCKS.max(chunks.tiles),
                        "{chunks:?} of {rows} x {c}"
                    );
                    let tickets = chunks.grid().grid_dim[0] as usize * (1 + chunks.merge_groups());
                    assert!(tickets <= TICKETS, "{chunks:?} of {rows} x {c} take {tickets} tickets");
                }
            }
        }
    }

    #[test]
    fn few_rows_make_one_chunk() {
        assert_eq!(Chunks::for_sums(60, 64, DType::F32), Chunks { count: 1, rows: 64, tiles: 1 });
        assert_eq!(Chunks::for_sums(60, 3, DType::F32).tiles, 1);
        assert_eq!(Chunks::for_sums(60, 512, DType::F16).tiles, 2);
    }
}
