//! Division of a kernel's work into blocks and threads.
use std::fmt;

/// Division of a kernel's work into blocks and threads, by shapes alone. A block has one row of threads.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub(super) kind: GeometryKind,
    pub(super) threads: u32,
    pub(super) vector: usize,
    pub(super) shared_bytes: u32,
}

#[derive(Clone, Copy)]
pub(super) enum GeometryKind {
    Elementwise { of: &'static str },
    Rows { of: &'static str, extent: &'static str },
    Reduce { of: &'static str, extent: &'static str },
    Grid(fn(&LaunchExtents) -> [u32; 3]),
}

impl Geometry {
    /// One thread per [vector](Geometry::vector) of elements of the argument `of`, whose number is the parameter `numel`. There may be
    /// fewer threads than that, so the kernel is a loop with `V` elements per step:
    /// `for (long long i = blockIdx.x * THREADS + threadIdx.x; i < numel / V; i += gridDim.x * THREADS)`.
    pub const fn elementwise(of: &'static str) -> Geometry {
        Geometry::of_kind(GeometryKind::Elementwise { of })
    }

    /// Rows of `extent` adjacent elements of the argument `of`, with threads along the rows: few blocks of many rows, for sums over rows.
    /// The parameter `rows` is their number. `Tile<V>` and `for_rows` of `channels.cuh` map the threads of a block: block b begins at row
    /// `b * tile.rows + tile.row` and continues in steps of `gridDim.x * tile.rows` rows, for each of the `tile.count` tiles of channels.
    pub const fn rows(of: &'static str, extent: &'static str) -> Geometry {
        Geometry::of_kind(GeometryKind::Rows { of, extent })
    }

    /// A block per row of `extent` adjacent elements of the argument `of`, to reduce rows. The parameter `rows` is their number. There may
    /// be fewer blocks than rows, so the kernel is a loop: `for (long long row = blockIdx.x; row < rows; row += gridDim.x)`.
    pub const fn reduce(of: &'static str, extent: &'static str) -> Geometry {
        Geometry::of_kind(GeometryKind::Reduce { of, extent })
    }

    /// The numbers of blocks along x, y and z that a function of the extents returns. Nothing runs if one of them is 0; all outputs are
    /// then filled with zeros.
    ///
    /// ```
    /// use fornax_engine::op::Geometry;
    /// const TILES: Geometry = Geometry::grid(|e| [e.extent("m").div_ceil(64) as u32, e.extent("n").div_ceil(64) as u32, 1]);
    /// # let _ = TILES;
    /// ```
    pub const fn grid(blocks: fn(&LaunchExtents) -> [u32; 3]) -> Geometry {
        Geometry::of_kind(GeometryKind::Grid(blocks))
    }

    /// Sets the threads per block, 1 to 1024 (default 256).
    pub const fn threads(mut self, threads: u32) -> Geometry {
        self.threads = threads;
        self
    }

    /// Sets the elements per thread (default 1), a power of two: the constant `V` of the text. `V` is 1 for tensors that are not aligned to
    /// 16 bytes, and for rows that do not consist of whole vectors.
    pub const fn vector(mut self, elements: usize) -> Geometry {
        self.vector = elements;
        self
    }

    /// Sets the bytes of dynamic shared memory per block (default 0), which `DYN_SHARED(type, name)` declares in the text.
    pub const fn shared_bytes(mut self, bytes: u32) -> Geometry {
        self.shared_bytes = bytes;
        self
    }

    const fn of_kind(kind: GeometryKind) -> Geometry {
        Geometry { kind, threads: 256, vector: 1, shared_bytes: 0 }
    }

    /// Argument whose elements are divided, and the extent of its rows.
    pub(super) fn divided(&self) -> Option<(&'static str, Option<&'static str>)> {
        match self.kind {
            GeometryKind::Elementwise { of } => Some((of, None)),
            GeometryKind::Rows { of, extent } | GeometryKind::Reduce { of, extent } => {
                Some((of, Some(extent)))
            }
            GeometryKind::Grid(_) => None,
        }
    }

    /// Name of the parameter for the number of elements or rows.
    pub(super) fn count_name(&self) -> Option<&'static str> {
        self.divided().map(|(_, extent)| if extent.is_some() { "rows" } else { "numel" })
    }

    /// Numbers of blocks, for `count` elements or rows and rows of `extent` elements. With a loop over elements it is an upper bound.
    pub(super) fn blocks(
        &self,
        count: usize,
        extent: usize,
        vector: usize,
        extents: &LaunchExtents,
    ) -> [u32; 3] {
        let threads = self.threads as usize;
        let blocks = match self.kind {
            GeometryKind::Grid(blocks) => return blocks(extents),
            GeometryKind::Elementwise { .. } => {
                count.div_ceil(vector).div_ceil(threads).min(i32::MAX as usize)
            }
            GeometryKind::Reduce { .. } => count.min(MAX_REDUCE_BLOCKS),
            GeometryKind::Rows { .. } => {
                let lanes = extent.div_ceil(vector).next_power_of_two().min(MAX_LANES).min(threads);
                count.div_ceil(MIN_ROWS_PER_THREAD * (threads / lanes)).min(MAX_ROW_BLOCKS)
            }
        };
        [blocks as u32, 1, 1]
    }
}

/// Maximum number of blocks over rows: the last block can merge their sums quickly, and they fill a large device.
const MAX_ROW_BLOCKS: usize = 512;

/// Maximum number of threads along a row, as `kLanes` in `channels.cuh`.
const MAX_LANES: usize = 32;

/// Rows per thread below which fewer blocks are launched.
const MIN_ROWS_PER_THREAD: usize = 4;

/// Maximum number of blocks that reduce rows.
const MAX_REDUCE_BLOCKS: usize = 1 << 16;

impl fmt::Debug for GeometryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GeometryKind::Elementwise { of } => write!(f, "elementwise({of})"),
            GeometryKind::Rows { of, extent } => write!(f, "rows({of}, {extent})"),
            GeometryKind::Reduce { of, extent } => write!(f, "reduce({of}, {extent})"),
            GeometryKind::Grid(_) => f.write_str("grid"),
        }
    }
}

/// The named extents of a kernel's arguments in one run.
#[derive(Clone, Debug)]
pub struct LaunchExtents {
    pub(super) values: Vec<(&'static str, usize)>,
}

impl LaunchExtents {
    /// The extent of that name.
    ///
    /// # Panics
    /// When no argument has an extent of that name.
    pub fn extent(&self, name: &str) -> usize {
        self.get(name).unwrap_or_else(|| panic!("no argument of the kernel has an extent {name}"))
    }

    pub(super) fn get(&self, name: &str) -> Option<usize> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(geometry: Geometry, count: usize, extent: usize, vector: usize) -> u32 {
        geometry.blocks(count, extent, vector, &LaunchExtents { values: vec![] })[0]
    }

    #[test]
    fn blocks_cover_elements_and_rows_within_limits() {
        let elementwise = Geometry::elementwise("x").threads(128);
        assert_eq!([0, 1, 512, 513].map(|n| blocks(elementwise, n, 1, 4)), [0, 1, 1, 2]);
        let rows = Geometry::rows("x", "c");
        // 8 lanes of 8 channels leave 32 rows per block at once, four rows per thread.
        assert_eq!([0, 1, 128, 129, 1 << 20].map(|n| blocks(rows, n, 64, 8)), [0, 1, 1, 2, 512]);
        assert_eq!(blocks(rows, 64, 3, 1), 1);
        assert_eq!([7, 1 << 20].map(|n| blocks(Geometry::reduce("x", "c"), n, 64, 1)), [7, 1 << 16]);
    }
}
