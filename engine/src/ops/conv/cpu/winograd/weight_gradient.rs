//! Weight gradient: `dw = G' [sum over tiles of (B' d B) * (A dy A')] G`. At each point the sum over tiles is a matmul of transformed inputs
//! and transformed gradients.
//!
//! The sum over tiles is in their order in every plan, but `by_chunks` adds the sums of its chunks.
use super::kernels::{self, PLANES, TileGradients, TilePlanes};
use super::tiles::{TILE, TileBlock, TileGrid};
use super::{PLANE_PADDING, input_tiles, padded, with_rows};
use crate::conv_shape::ConvShape;
use crate::cpu::parallel::for_each_task;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Level};
use crate::cpu::stored::Stored;
use crate::ops::conv::cpu::prefetch::Prefetch;
use crate::ops::conv::cpu::weight::OuterProduct;
use crate::ops::conv::cpu::weight::outer::{OuterOperand, PixelLoop};
use crate::ops::conv::cpu::{ConvInput, SharedPtr};
use std::ops::Range;

/// Tiles per block where each chunk has its own sums.
const CHUNK_BLOCK_TILES: usize = 48;
/// Tiles per block where tasks add to the sums at a point: many, because every block reads and writes all sums.
const POINT_BLOCK_TILES: usize = 160;
/// Most tiles that are transformed at once, unless the sums are larger than all transformed tiles.
const ROUND_TILES: usize = 128;
/// Output and input channels of a task's sums.
const TASK_CHANNELS: [usize; 2] = [32, 128];
/// Most weights of which each chunk of tiles has its own sums, and the number of chunks.
const MAX_CHUNK_WEIGHTS: usize = 64 * 64;
const CHUNKS: usize = 8;
/// Output channels of a task that transforms sums.
const TRANSFORM_ROWS: usize = 16;

/// Weight gradient. `dw` is overwritten.
pub(in crate::ops::conv::cpu) fn weight_gradient<T: Stored<Compute = f32>>(
    s: &ConvShape,
    x: ConvInput<T>,
    dy: &[T],
    dw: &mut [f32],
) {
    if s.n == 0 {
        return dw.fill(0.0);
    }
    let job = GradientJob { level: simd::level(), s, x, dy, dw: SharedPtr(dw.as_mut_ptr()) };
    let grid = TileGrid::of(s);
    let (tiles, weights) = (grid.count(), s.c_in * s.c_out);
    if tiles <= ROUND_TILES || tiles * (s.c_in + s.c_out) <= weights {
        job.by_weights(&grid.blocks(tiles)[0]);
    } else if weights <= MAX_CHUNK_WEIGHTS {
        job.by_chunks(&grid.blocks(CHUNK_BLOCK_TILES));
    } else {
        job.by_points(&grid.blocks(POINT_BLOCK_TILES));
    }
}

/// One weight gradient.
struct GradientJob<'a, T> {
    level: Level,
    s: &'a ConvShape,
    x: ConvInput<'a, T>,
    dy: &'a [T],
    dw: SharedPtr<f32>,
}

/// Transformed inputs and output gradients of a block of tiles. Strides of tiles are padded, as planes are.
#[derive(Clone, Copy)]
struct TransformedTiles {
    v: SharedPtr<f32>,
    d: SharedPtr<f32>,
    v_tile: usize,
    d_tile: usize,
    v_plane: usize,
    d_plane: usize,
}

/// Sums over tiles for a range of output and of input channels, `[36][outputs][inputs]`.
struct WeightSums {
    ptr: *mut f32,
    plane: usize,
    pitch: usize,
    outputs: Range<usize>,
    inputs: Range<usize>,
}

impl<T: Stored<Compute = f32>> GradientJob<'_, T> {
    /// Transforms all tiles at once; a task computes the sums of some weights at all points and transforms them.
    fn by_weights(&self, block: &TileBlock) {
        self.with_tiles(block.len(), |tiles| {
            self.transform(block, tiles);
            let [outputs, inputs] = TASK_CHANNELS;
            let parts = self.s.c_in.div_ceil(inputs);
            for_each_task(parts * self.s.c_out.div_ceil(outputs), |task| {
                let (k, c) = (task / parts * outputs, task % parts * inputs);
                let (outputs, inputs) =
                    (k..(k + outputs).min(self.s.c_out), c..(c + inputs).min(self.s.c_in));
                let plane = padded(outputs.len() * inputs.len());
                scratch::with(PLANES * plane, |sums: &mut [f32]| {
                    let pitch = inputs.len();
                    let sums = WeightSums { ptr: sums.as_mut_ptr(), plane, pitch, outputs, inputs };
                    // SAFETY: tasks have different weights.
                    unsafe {
                        (0..PLANES).for_each(|point| self.multiply(block, tiles, point, &sums, false));
                        self.transform_sums(&sums);
                    }
                });
            });
        });
    }

    /// A task transforms and multiplies the blocks of one chunk. The sums of the chunks are added in order.
    fn by_chunks(&self, blocks: &[TileBlock]) {
        let plane = padded(self.s.c_out * self.s.c_in);
        let chunks = CHUNKS.min(blocks.len());
        scratch::with(chunks * PLANES * plane, |all: &mut [f32]| {
            let all = SharedPtr(all.as_mut_ptr());
            for_each_task(chunks, |chunk| {
                let sums = self.all_weights(all.at(chunk * PLANES * plane), plane);
                let blocks = &blocks[chunk * blocks.len() / chunks..(chunk + 1) * blocks.len() / chunks];
                for (i, block) in blocks.iter().enumerate() {
                    self.with_tiles(block.len(), |tiles| {
                        // SAFETY: the planes hold the tiles of the block; each task has its own sums.
                        unsafe {
                            block.tile_rows().for_each(|row| self.transform_row(block, row, tiles));
                            (0..PLANES).for_each(|point| self.multiply(block, tiles, point, &sums, i > 0));
                        }
                    });
                }
            });
            for_each_task(PLANES, |point| {
                let len = plane - PLANE_PADDING;
                // SAFETY: each task adds the planes of its own point.
                unsafe {
                    let first = std::slice::from_raw_parts_mut(all.at(point * plane), len);
                    for chunk in 1..chunks {
                        let next = std::slice::from_raw_parts(all.at((chunk * PLANES + point) * plane), len);
                        first.iter_mut().zip(next).for_each(|(sum, next)| *sum += next);
                    }
                }
            });
            self.transform_all(all.0, plane);
        });
    }

    /// Block by block, all tasks transform tiles, then a task adds to the sums at one point, which stay in its thread's cache.
    fn by_points(&self, blocks: &[TileBlock]) {
        let plane = padded(self.s.c_out * self.s.c_in);
        let most = blocks.iter().map(TileBlock::len).max().unwrap_or(0);
        scratch::with(PLANES * plane, |sums: &mut [f32]| {
            let all = SharedPtr(sums.as_mut_ptr());
            self.with_tiles(most, |tiles| {
                for (i, block) in blocks.iter().enumerate() {
                    self.transform(block, tiles);
                    for_each_task(PLANES, |point| {
                        let sums = self.all_weights(all.at(0), plane);
                        // SAFETY: each task adds to the sums of its own point.
                        unsafe { self.multiply(block, tiles, point, &sums, i > 0) };
                    });
                }
            });
            self.transform_all(all.0, plane);
        });
    }

    /// Sums of all weights.
    fn all_weights(&self, ptr: *mut f32, plane: usize) -> WeightSums {
        WeightSums { ptr, plane, pitch: self.s.c_in, outputs: 0..self.s.c_out, inputs: 0..self.s.c_in }
    }

    /// Calls `f` with planes for `count` tiles.
    fn with_tiles(&self, count: usize, f: impl FnOnce(TransformedTiles)) {
        let (v_tile, d_tile) = (padded(self.s.c_in), padded(self.s.c_out));
        let (v_plane, d_plane) = (padded(count * v_tile), padded(count * d_tile));
        scratch::with(PLANES * (v_plane + d_plane), |planes: &mut [f32]| {
            let v = SharedPtr(planes.as_mut_ptr());
            let d = SharedPtr(v.at(PLANES * v_plane));
            f(TransformedTiles { v, d, v_tile, d_tile, v_plane, d_plane });
        });
    }

    /// Transforms all tiles of a block, with a task per row of tiles.
    fn transform(&self, block: &TileBlock, tiles: TransformedTiles) {
        let rows: Vec<_> = block.tile_rows().collect();
        for_each_task(rows.len(), |i| {
            // SAFETY: each task writes the planes of its own tiles.
            unsafe { self.transform_row(block, rows[i], tiles) };
        });
    }

    /// Transforms the inputs and output gradients of a row of tiles.
    ///
    /// # Safety
    /// The planes must hold the tiles of the block.
    unsafe fn transform_row(&self, block: &TileBlock, row: (usize, usize), tiles: TransformedTiles) {
        let s = self.s;
        let to = TilePlanes { ptr: tiles.v.0, plane: tiles.v_plane, tile: tiles.v_tile };
        input_tiles(self.level, s, self.x, s.c_in, block, row, to);
        let image = s.h * s.w * s.c_out;
        let y = row.1 * TILE;
        with_rows(&self.dy[row.0 * image..][..image], s.w * s.c_out, y..s.h.min(y + TILE), |dy| {
            block.runs(row, |run| {
                for t in 0..run.count {
                    let x = run.x + t * TILE;
                    let from = TileGradients {
                        dy: dy.wrapping_add((run.y * s.w + x) * s.c_out),
                        row: s.w * s.c_out,
                        pixel: s.c_out,
                        rows: run.size[0].min(s.h - run.y),
                        columns: run.size[1].min(s.w - x),
                    };
                    let to = tiles.d.at((run.first + t) * tiles.d_tile);
                    kernels::output_gradient(self.level, run.size, from, s.c_out, to, tiles.d_plane);
                }
            });
        });
    }

    /// `sums[k][c] (+)= sum over the tiles of d[tile][k] * v[tile][c]` at one point.
    ///
    /// # Safety
    /// The planes must hold the tiles of the block; no other task may access these sums.
    unsafe fn multiply(
        &self,
        block: &TileBlock,
        tiles: TransformedTiles,
        point: usize,
        sums: &WeightSums,
        add: bool,
    ) {
        let range = block.tiles_at(point);
        let operand = |planes: SharedPtr<f32>, plane: usize, tile: usize, channel: usize| OuterOperand {
            ptr: planes.at(point * plane + range.start * tile + channel),
            image: 0,
            row: 0,
            pixel: tile,
        };
        let walk = PixelLoop { images: 1, rows: 1, columns: range.len() };
        let product = OuterProduct { level: self.level, pairs: false, walk, add };
        let d = operand(tiles.d, tiles.d_plane, tiles.d_tile, sums.outputs.start);
        let v = operand(tiles.v, tiles.v_plane, tiles.v_tile, sums.inputs.start);
        let sum = sums.ptr.add(point * sums.plane);
        let mut ahead = Prefetch::new([&[], &[]], 0);
        product.tiles((d, 0..sums.outputs.len()), (v, 0..sums.inputs.len()), sum, sums.pitch, &mut ahead);
    }

    /// Transforms the sums of all weights.
    fn transform_all(&self, sums: *mut f32, plane: usize) {
        let sums = SharedPtr(sums);
        for_each_task(self.s.c_out.div_ceil(TRANSFORM_ROWS), |task| {
            let first = task * TRANSFORM_ROWS;
            let outputs = first..(first + TRANSFORM_ROWS).min(self.s.c_out);
            let all = self.all_weights(sums.at(first * self.s.c_in), plane);
            // SAFETY: tasks have different output channels.
            unsafe { self.transform_sums(&WeightSums { outputs, ..all }) };
        });
    }

    /// Transforms sums to the gradient of their weights.
    ///
    /// # Safety
    /// No other task may write these weights.
    unsafe fn transform_sums(&self, sums: &WeightSums) {
        for (row, output) in sums.outputs.clone().enumerate() {
            let du = sums.ptr.add(row * sums.pitch);
            let dw = self.dw.at(output * 9 * self.s.c_in + sums.inputs.start);
            kernels::weight_gradient_row(self.level, du, sums.plane, sums.inputs.len(), dw, self.s.c_in);
        }
    }
}
