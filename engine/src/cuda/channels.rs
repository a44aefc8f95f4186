//! How rows of channels are cut for kernels that walk them (`kernels/cu/channels.cuh`, `rows.cuh`): by shape and dtype alone.
use super::Grid;
use crate::DType;

/// Threads of a block.
pub(super) const THREADS: usize = 256;

/// The most threads side by side in a row of a block.
const LANES: usize = 32;

/// Blocks that a pass of sums is cut into at most: enough to fill a large device, few enough to merge quickly.
const SUMS: usize = 512;

/// Blocks that a pass without sums is cut into at most: a few times what a large device runs at once. More would leave each thread
/// few rows for the parameters that it loads.
const BLOCKS: usize = 2048;

/// Adjacent channels that a thread takes at once: as many as 16 bytes hold, when rows are whole packs.
pub(super) fn pack(c: usize, dtype: DType) -> usize {
    let pack = 16 / dtype.size();
    if c.is_multiple_of(pack) { pack } else { 1 }
}

/// A cut of rows of channels into chunks of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    /// Number of chunks.
    pub count: usize,
    /// Rows of all but the last.
    pub rows: usize,
    /// Blocks side by side over the channels.
    tiles: usize,
}

impl Chunks {
    /// Chunks for a kernel that adds up rows.
    pub fn of_sums(rows: usize, c: usize, dtype: DType) -> Chunks {
        Chunks::cut(rows, c, dtype, SUMS)
    }

    /// Chunks for a kernel that treats each element by itself.
    pub fn of_elements(rows: usize, c: usize, dtype: DType) -> Chunks {
        Chunks::cut(rows, c, dtype, BLOCKS)
    }

    /// As [`Chunks::of_sums`], where a thread takes one of `packs` groups of channels.
    pub fn sums_of_packs(rows: usize, packs: usize) -> Chunks {
        Chunks::cut_packs(rows, packs, SUMS)
    }

    /// As [`Chunks::of_elements`], where a thread takes one of `packs` groups of channels.
    pub fn elements_of_packs(rows: usize, packs: usize) -> Chunks {
        Chunks::cut_packs(rows, packs, BLOCKS)
    }

    /// At most about `blocks` blocks, each of which has every thread at four rows or more.
    pub fn cut(rows: usize, c: usize, dtype: DType, blocks: usize) -> Chunks {
        Chunks::cut_packs(rows, c / pack(c, dtype), blocks)
    }

    fn cut_packs(rows: usize, packs: usize, blocks: usize) -> Chunks {
        let lanes = packs.next_power_of_two().min(LANES);
        let tiles = packs.div_ceil(lanes);
        let (side, chunks) = (THREADS / lanes, (blocks / tiles).max(1));
        let per_chunk = rows.div_ceil(chunks).max(4 * side).next_multiple_of(side);
        Chunks { count: rows.div_ceil(per_chunk), rows: per_chunk, tiles }
    }

    /// A block for each tile of channels (x) of each chunk (y).
    pub fn grid(&self) -> Grid {
        grid(self.tiles, self.count)
    }

    /// A block for each chunk (x) of so many images and each tile of channels (y).
    pub fn grid_by_image(&self, images: usize) -> Grid {
        grid(self.count * images, self.tiles)
    }
}

/// Blocks of a kernel that merges the results of chunks for `c` channels.
pub(super) fn merge_grid(c: usize) -> Grid {
    Grid::line(c.div_ceil(16), THREADS)
}

/// Blocks for pixels of channels: so many rows (y) of `width` pixels (x).
pub(super) fn pixel_grid(rows: usize, width: usize, c: usize, dtype: DType) -> Grid {
    grid((width * c / pack(c, dtype)).div_ceil(THREADS), rows.min(u16::MAX.into()))
}

/// True where a row is long enough for a whole block.
pub(super) fn is_long(n: usize) -> bool {
    n > 2048
}

/// Blocks for rows of `n` elements, each reduced by a warp or, long ones, a block.
pub(super) fn row_grid(rows: usize, n: usize) -> Grid {
    let at_once = if is_long(n) { 1 } else { THREADS / 32 };
    Grid::line(rows.div_ceil(at_once).clamp(1, 1 << 16), THREADS)
}

/// Blocks of the usual number of threads in two dimensions.
pub(super) fn grid(x: usize, y: usize) -> Grid {
    Grid { blocks: [x.max(1) as u32, y.max(1) as u32, 1], threads: [THREADS as u32, 1, 1], shared: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_all_rows_once_and_stay_few() {
        for dtype in [DType::F32, DType::F16] {
            for c in [1, 3, 8, 24, 64, 96, 576, 2048, 10_000] {
                for rows in [1, 2, 63, 1000, 49 * 32, 112 * 112 * 256] {
                    let chunks = Chunks::of_sums(rows, c, dtype);
                    assert!(chunks.count * chunks.rows >= rows && (chunks.count - 1) * chunks.rows < rows);
                    assert!(
                        chunks.count * chunks.tiles <= SUMS.max(chunks.tiles),
                        "{chunks:?} of {rows} x {c}"
                    );
                }
            }
        }
    }

    #[test]
    fn few_rows_are_one_chunk() {
        assert_eq!(Chunks::of_sums(60, 64, DType::F32), Chunks { count: 1, rows: 64, tiles: 1 });
        assert_eq!(Chunks::of_sums(60, 3, DType::F32).tiles, 1);
        assert_eq!(Chunks::of_sums(60, 512, DType::F16).tiles, 2);
    }
}
