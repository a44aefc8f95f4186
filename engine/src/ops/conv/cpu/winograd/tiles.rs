//! Tiles of 4x4 outputs that cover the maps of a batch, and blocks of tiles that are transformed together.
//!
//! A map whose side is no multiple of 4 ends with smaller tiles, which use fewer points of the transform. Within a block the tiles are
//! ordered `[last column][full][last row][corner]`, so the tiles of every point are one range.
use super::transform::{POINTS, uses};
use crate::conv_shape::ConvShape;
use std::ops::Range;

/// Outputs of a full tile along one axis.
pub(super) const TILE: usize = 4;

/// Tiles along one axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileAxis {
    /// Number of full tiles.
    pub(super) full: usize,
    /// Size of the last tile, 2 or 3, or 0 if there is none. A single last output is computed as two.
    pub(super) last: usize,
}

impl TileAxis {
    fn of(side: usize) -> TileAxis {
        let last = match side % TILE {
            1 => 2,
            rest => rest,
        };
        TileAxis { full: side / TILE, last }
    }

    /// Number of tiles.
    pub(super) fn count(&self) -> usize {
        self.full + usize::from(self.last > 0)
    }
}

/// Tiles of all images of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileGrid {
    images: usize,
    pub(super) y: TileAxis,
    pub(super) x: TileAxis,
}

/// Neighbouring tiles of equal size in one row of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TileRun {
    pub(super) image: usize,
    /// First output row and column.
    pub(super) y: usize,
    pub(super) x: usize,
    /// Rows and columns of a tile.
    pub(super) size: [usize; 2],
    pub(super) count: usize,
    /// Index of the first tile in its block.
    pub(super) first: usize,
}

/// Tiles of some rows of tiles of some images.
#[derive(Clone, Debug)]
pub(super) struct TileBlock {
    images: Range<usize>,
    /// Full rows of tiles.
    rows: Range<usize>,
    has_last_row: bool,
    y: TileAxis,
    x: TileAxis,
}

impl TileGrid {
    pub(super) fn of(s: &ConvShape) -> TileGrid {
        TileGrid { images: s.n, y: TileAxis::of(s.h), x: TileAxis::of(s.w) }
    }

    /// Number of tiles.
    pub(super) fn count(&self) -> usize {
        self.images * self.y.count() * self.x.count()
    }

    /// All tiles in blocks of about `target` tiles: rows of one image, or several whole images.
    pub(super) fn blocks(&self, target: usize) -> Vec<TileBlock> {
        let image_tiles = self.y.count() * self.x.count();
        let images = (target / image_tiles).max(1);
        let parts = if images > 1 { 1 } else { image_tiles.div_ceil(target).min(self.y.full) };
        let mut blocks = Vec::with_capacity(self.images.div_ceil(images) * parts);
        for first in (0..self.images).step_by(images) {
            for part in 0..parts {
                let rows = part * self.y.full / parts..(part + 1) * self.y.full / parts;
                blocks.push(TileBlock {
                    images: first..(first + images).min(self.images),
                    has_last_row: self.y.last > 0 && rows.end == self.y.full,
                    rows,
                    y: self.y,
                    x: self.x,
                });
            }
        }
        blocks
    }
}

impl TileBlock {
    /// Number of tiles in the last column, the full tiles, the last row and the corner.
    fn counts(&self) -> [usize; 4] {
        let (images, rows) = (self.images.len(), self.rows.len());
        let last_column = if self.x.last > 0 { images * rows } else { 0 };
        let last_row = if self.has_last_row { images * self.x.full } else { 0 };
        let corner = if self.has_last_row && self.x.last > 0 { images } else { 0 };
        [last_column, images * rows * self.x.full, last_row, corner]
    }

    /// Number of tiles.
    pub(super) fn len(&self) -> usize {
        self.counts().iter().sum()
    }

    /// Tiles that use a point of the two-dimensional transform, `row * 6 + column`.
    pub(super) fn tiles_at(&self, point: usize) -> Range<usize> {
        let [last_column, full, last_row, corner] = self.counts();
        let last_row_is_used = uses(self.y.last, point / POINTS);
        let last_column_is_used = uses(self.x.last, point % POINTS);
        let start = if last_column_is_used { 0 } else { last_column };
        let end = match (last_row_is_used, last_column_is_used) {
            (false, _) => last_column + full,
            (true, false) => last_column + full + last_row,
            (true, true) => last_column + full + last_row + corner,
        };
        start..end
    }

    /// The rows of tiles of the block: image and row of tiles, for [`TileBlock::runs`].
    pub(super) fn tile_rows(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let rows = self.rows.start..self.rows.end + usize::from(self.has_last_row);
        self.images.clone().flat_map(move |image| rows.clone().map(move |row| (image, row)))
    }

    /// Calls `f` with the runs of one row of tiles: the full-width tiles, then the last one.
    pub(super) fn runs(&self, (image, row): (usize, usize), mut f: impl FnMut(TileRun)) {
        let [last_column, full, last_row, _] = self.counts();
        let (i, rows) = (image - self.images.start, self.rows.len());
        let is_last = row == self.y.full;
        let height = if is_last { self.y.last } else { TILE };
        let (wide, narrow) = if is_last {
            (last_column + full + i * self.x.full, last_column + full + last_row + i)
        } else {
            let r = i * rows + row - self.rows.start;
            (last_column + r * self.x.full, r)
        };
        let run =
            TileRun { image, y: row * TILE, x: 0, size: [height, TILE], count: self.x.full, first: wide };
        f(run);
        if self.x.last > 0 {
            f(TileRun { x: self.x.full * TILE, size: [height, self.x.last], count: 1, first: narrow, ..run });
        }
    }

    /// Calls `f` with every run of the block.
    pub(super) fn for_each_run(&self, mut f: impl FnMut(TileRun)) {
        for row in self.tile_rows() {
            self.runs(row, &mut f);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConvAlgorithm;

    fn grid(n: usize, h: usize, w: usize) -> TileGrid {
        let s = ConvShape {
            n,
            h,
            w,
            c_in: 32,
            c_out: 32,
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            dilation: [1, 1],
            groups: 1,
            algorithm: ConvAlgorithm::Auto,
        };
        TileGrid::of(&s)
    }

    #[test]
    fn blocks_cover_every_output_once_and_ranges_hold_the_tiles_of_each_point() {
        for (n, h, w, target) in [
            (1, 4, 4, 16),
            (3, 8, 8, 16),
            (2, 14, 14, 12),
            (5, 7, 7, 16),
            (2, 5, 6, 3),
            (1, 9, 19, 4),
            (2, 56, 56, 24),
        ] {
            let grid = grid(n, h, w);
            let mut covered = vec![0; n * h * w];
            let mut total = 0;
            for block in grid.blocks(target) {
                let mut tiles = vec![[0; 2]; block.len()];
                block.for_each_run(|run| {
                    for t in 0..run.count {
                        assert_eq!(tiles[run.first + t], [0, 0], "one tile for each index");
                        tiles[run.first + t] = run.size;
                        let x = run.x + t * TILE;
                        for y in run.y..(run.y + run.size[0]).min(h) {
                            for x in x..(x + run.size[1]).min(w) {
                                covered[(run.image * h + y) * w + x] += 1;
                            }
                        }
                    }
                });
                for point in 0..POINTS * POINTS {
                    let range = block.tiles_at(point);
                    for (i, size) in tiles.iter().enumerate() {
                        let is_used = uses(size[0], point / POINTS) && uses(size[1], point % POINTS);
                        assert_eq!(
                            range.contains(&i),
                            is_used,
                            "{h}x{w}, point {point}, tile {i} of {size:?}"
                        );
                    }
                }
                total += block.len();
            }
            assert!(covered.iter().all(|c| *c == 1), "{n} maps of {h}x{w}: {covered:?}");
            assert_eq!(total, grid.count());
        }
    }
}
