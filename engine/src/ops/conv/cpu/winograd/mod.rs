//! Winograd convolution F(4x4, 3x3) for 3x3 kernels of stride 1 in f32: a quarter of the multiplications of a direct convolution, and two
//! to three times its rounding error.
//!
//! With `d` a tile of inputs and `w` the taps, `y = A' [sum over channels of (G w G') * (B' d B)] A`, where `*` multiplies elements: at
//! each of 36 points the sum over channels is a matmul. `transform` has the transforms of one dimension, `kernels` of two; `tiles` covers
//! the maps. The data gradient is the same computation over `dy` with the weights turned by 180 degrees; `weight_gradient` has its own.
//!
//! Transformed tiles stay in the L2 cache: a task transforms a block of tiles, multiplies it with all weights, which were transformed
//! before, and transforms the results. Where the weights outweigh the tiles, the roles swap: a task transforms a few columns of the weights
//! and multiplies all tiles with them.
//!
//! Every element is a sum over channels in their order, in runs, so the results depend neither on the partition nor on the size of the batch.
use super::direct::panel::{ColumnBlock, Panels};
use super::direct::tile::{self, StoreKind, Tap, TileStore};
use super::prefetch::Prefetch;
use super::{ConvInput, SharedPtr};
use crate::conv_shape::{ConvAlgorithm, ConvShape};
use crate::cpu::cast::cast;
use crate::cpu::parallel::for_each_task;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Level};
use crate::cpu::stored::Stored;
use crate::dtype::{DType, as_f32};
use kernels::{ClampPrologue, ImageMap, PLANES, RunPosition, TileOutputs, TilePlanes, WeightPanel};
use std::ops::Range;
use tiles::{TILE, TileBlock, TileGrid};

mod kernels;
mod tiles;
mod transform;
mod weight_gradient;

pub(super) use weight_gradient::weight_gradient;

/// Fewest channels, and their unit. Fewer do not repay the transforms.
const MIN_CHANNELS: usize = 32;
const CHANNEL_UNIT: usize = 16;
/// Smallest side of a map.
const MIN_SIDE: usize = 4;
/// Tiles per block where the weights are transformed before.
const BLOCK_TILES: usize = 28;
/// Columns that are multiplied before their results are transformed.
const BLOCK_COLUMNS: usize = 64;
/// Most weights that are transformed before: 36 planes of them take 4.7 MB, and every block reads them from the last-level cache.
const MAX_BLOCK_WEIGHTS: usize = 1 << 15;
/// Fewest blocks that occupy the threads.
const MIN_BLOCKS: usize = 8;
/// Tiles per round where tasks transform the weights.
const ROUND_TILES: usize = 256;
/// Elements between planes, so they do not compete for the same sets of the L1 cache.
const PLANE_PADDING: usize = 16;
/// Most products of a transformed output that are added one after the other: the rounding error of a longer sum grows with its length, and
/// the output transform magnifies it.
const MAX_SUM: usize = 256;

/// True if Winograd convolutions are faster than direct ones and the options permit them. The choice depends on the shape alone, and not on the batch size.
pub(super) fn supports(s: &ConvShape) -> bool {
    let channels = |c: usize| c >= MIN_CHANNELS && c.is_multiple_of(CHANNEL_UNIT);
    s.algorithm == ConvAlgorithm::Auto
        && s.kernel == [3, 3]
        && s.stride == [1, 1]
        && s.padding == [1, 1]
        && s.dilation == [1, 1]
        && s.groups == 1
        && channels(s.c_in)
        && channels(s.c_out)
        && s.h.min(s.w) >= MIN_SIDE
}

/// Forward pass.
pub(super) fn forward<T: Stored<Compute = f32>>(
    s: &ConvShape,
    x: ConvInput<T>,
    weight: &[T],
    bias: Option<&[f32]>,
    y: &mut [T],
) {
    let weights = WeightSource { weight, pass: Pass::Forward, s };
    convolve(&weights, s.c_in, s.c_out, x, bias, y);
}

/// Data gradient.
pub(super) fn data_gradient<T: Stored<Compute = f32>>(s: &ConvShape, dy: &[T], weight: &[T], dx: &mut [T]) {
    let weights = WeightSource { weight, pass: Pass::DataGradient, s };
    convolve(&weights, s.c_out, s.c_in, ConvInput::plain(dy), None, dx);
}

#[derive(Clone, Copy)]
enum Pass {
    Forward,
    DataGradient,
}

/// Weights of a pass before their transform.
#[derive(Clone, Copy)]
struct WeightSource<'a, T> {
    weight: &'a [T],
    pass: Pass,
    s: &'a ConvShape,
}

impl<T: Stored<Compute = f32>> WeightSource<'_, T> {
    /// Transforms the columns from `first` on, and the channels from `channel` on, to a panel.
    ///
    /// # Safety
    /// The panel must be writable.
    unsafe fn transform(&self, level: Level, first: usize, channel: usize, panel: WeightPanel) {
        let inputs = self.s.c_in;
        match self.pass {
            Pass::Forward => {
                let rows = &self.weight[first * 9 * inputs..][..panel.width * 9 * inputs];
                T::load(rows, |w| kernels::forward_weight(level, w[channel..].as_ptr(), inputs, panel));
            }
            Pass::DataGradient => {
                let rows = &self.weight[channel * 9 * inputs..][..panel.rows * 9 * inputs];
                if let Some(rows) = as_f32(rows) {
                    return kernels::data_gradient_weight(level, rows[first..].as_ptr(), inputs, panel);
                }
                scratch::with(panel.rows * 9 * panel.width, |wide: &mut [f32]| {
                    for (from, wide) in rows.chunks_exact(inputs).zip(wide.chunks_exact_mut(panel.width)) {
                        cast(&from[first..][..panel.width], wide);
                    }
                    kernels::data_gradient_weight(level, wide.as_ptr(), panel.width, panel);
                });
            }
        }
    }
}

/// One convolution: source and target maps of `channels` and `columns` channels.
struct WinogradJob<'a, T> {
    level: Level,
    weights: &'a WeightSource<'a, T>,
    panels: Panels,
    grid: TileGrid,
    channels: usize,
    columns: usize,
    source: ConvInput<'a, T>,
    bias: Option<&'a [f32]>,
    target: SharedPtr<T>,
}

fn convolve<T: Stored<Compute = f32>>(
    weights: &WeightSource<T>,
    channels: usize,
    columns: usize,
    source: ConvInput<T>,
    bias: Option<&[f32]>,
    target: &mut [T],
) {
    if target.is_empty() {
        return;
    }
    let level = simd::level();
    let grid = TileGrid::of(weights.s);
    let panels = Panels::new(level, 1, columns, channels, false);
    let target = SharedPtr(target.as_mut_ptr());
    let job = WinogradJob { level, weights, panels, grid, channels, columns, source, bias, target };
    let blocks = grid.blocks(BLOCK_TILES);
    if channels * columns <= MAX_BLOCK_WEIGHTS && blocks.len() >= MIN_BLOCKS {
        job.by_blocks(&blocks);
    } else {
        job.by_columns();
    }
}

impl<T: Stored<Compute = f32>> WinogradJob<'_, T> {
    /// Transforms all weights, then executes a task per block of tiles.
    fn by_blocks(&self, blocks: &[TileBlock]) {
        let panels = &self.panels.blocks;
        let starts: Vec<usize> = panels
            .iter()
            .scan(0, |end, panel| Some(std::mem::replace(end, *end + self.panel_len(panel))))
            .collect();
        let len = panels.iter().map(|panel| self.panel_len(panel)).sum();
        let chunk = (BLOCK_COLUMNS / (2 * self.level.lanes())).max(1);
        scratch::with(len, |u: &mut [f32]| {
            let u = SharedPtr(u.as_mut_ptr());
            for_each_task(panels.len(), |i| {
                // SAFETY: each task writes its own panel.
                unsafe { self.transform_weights(&panels[i], 0..self.channels, u.at(starts[i])) };
            });
            for_each_task(blocks.len(), |i| {
                let block = &blocks[i];
                let plane = padded(block.len() * self.channels);
                scratch::with(PLANES * plane, |v: &mut [f32]| {
                    let v = SharedPtr(v.as_mut_ptr());
                    // SAFETY: the planes hold the tiles of the block, and blocks do not overlap.
                    unsafe {
                        block.tile_rows().for_each(|row| self.transform_tiles(block, row, v, plane));
                        for (panels, starts) in panels.chunks(chunk).zip(starts.chunks(chunk)) {
                            self.with_sums(block, panels, |mut sums| {
                                for (panel, start) in panels.iter().zip(starts) {
                                    let (registers, width) = (panel.registers, self.width(panel));
                                    let plane_of_u = padded(self.channels * width);
                                    for channels in self.channel_runs() {
                                        let u = u.at(start + channels.start * width);
                                        let weights =
                                            RunWeights { u, plane: plane_of_u, registers, channels };
                                        self.multiply(block, (v, plane), &weights, Streamed::Weights, sums);
                                    }
                                    sums.m = sums.m.add(width);
                                }
                            });
                        }
                    }
                });
            });
        });
    }

    /// Transforms the tiles of a round, then executes a task per panel of weights, which transforms a run of channels just before its use.
    fn by_columns(&self) {
        let panels = &self.panels.blocks;
        for block in self.grid.blocks(ROUND_TILES) {
            let plane = padded(block.len() * self.channels);
            scratch::with(PLANES * plane, |v: &mut [f32]| {
                let v = SharedPtr(v.as_mut_ptr());
                let rows: Vec<_> = block.tile_rows().collect();
                for_each_task(rows.len(), |i| {
                    // SAFETY: each task writes the planes of its own tiles.
                    unsafe { self.transform_tiles(&block, rows[i], v, plane) };
                });
                for_each_task(panels.len(), |i| {
                    let (registers, width) = (panels[i].registers, self.width(&panels[i]));
                    // SAFETY: the buffers hold the run of the panel; tasks write different columns of the target.
                    unsafe {
                        self.with_sums(&block, &panels[i..=i], |sums| {
                            for channels in self.channel_runs() {
                                let plane_of_u = padded(channels.len() * width);
                                scratch::with(PLANES * plane_of_u, |u: &mut [f32]| {
                                    let u = u.as_mut_ptr();
                                    self.transform_weights(&panels[i], channels.clone(), u);
                                    let weights = RunWeights { u, plane: plane_of_u, registers, channels };
                                    self.multiply(&block, (v, plane), &weights, Streamed::Tiles, sums);
                                });
                            }
                        });
                    }
                });
            });
        }
    }

    /// Columns of a panel.
    fn width(&self, panel: &ColumnBlock) -> usize {
        panel.registers * self.level.lanes()
    }

    /// Elements of a panel's transformed weights.
    fn panel_len(&self, panel: &ColumnBlock) -> usize {
        PLANES * padded(self.channels * self.width(panel))
    }

    /// Runs of channels whose sums are computed one after the other.
    fn channel_runs(&self) -> impl Iterator<Item = Range<usize>> {
        let (units, runs) = (self.channels / CHANNEL_UNIT, self.channels.div_ceil(MAX_SUM));
        (0..runs).map(move |run| run * units / runs * CHANNEL_UNIT..(run + 1) * units / runs * CHANNEL_UNIT)
    }

    /// Transforms the weights of a panel for some channels.
    ///
    /// # Safety
    /// `u` must hold 36 planes of the channels.
    unsafe fn transform_weights(&self, panel: &ColumnBlock, channels: Range<usize>, u: *mut f32) {
        let (rows, width) = (channels.len(), self.width(panel));
        let to = WeightPanel { u, rows, plane: padded(rows * width), width };
        self.weights.transform(self.level, panel.first * self.level.lanes(), channels.start, to);
    }

    /// Transforms the inputs of a row of tiles.
    ///
    /// # Safety
    /// The planes at `v` must hold the tiles of the block.
    unsafe fn transform_tiles(
        &self,
        block: &TileBlock,
        row: (usize, usize),
        v: SharedPtr<f32>,
        plane: usize,
    ) {
        let to = TilePlanes { ptr: v.0, plane, tile: self.channels };
        input_tiles(self.level, self.weights.s, self.source, self.channels, block, row, to);
    }

    /// Calls `compute` with memory for the sums of consecutive panels, and transforms the sums to the target.
    ///
    /// # Safety
    /// `compute` must write all sums. No other task may write these columns of the block's outputs.
    unsafe fn with_sums(&self, block: &TileBlock, panels: &[ColumnBlock], compute: impl FnOnce(TileSums)) {
        let columns: usize = panels.iter().map(|panel| self.width(panel)).sum();
        let plane = padded(block.len() * columns);
        scratch::with(PLANES * plane, |m: &mut [f32]| {
            let m = m.as_mut_ptr();
            compute(TileSums { m, plane, pitch: columns });
            let column = panels[0].first * self.level.lanes();
            let bias = self.bias.map_or(std::ptr::null(), |bias| bias[column..].as_ptr());
            let (h, w) = (self.weights.s.h, self.weights.s.w);
            block.for_each_run(|run| {
                for t in 0..run.count {
                    let x = run.x + t * TILE;
                    let pixel = (run.image * h + run.y) * w + x;
                    let y = self.target.at(pixel * self.columns + column);
                    let m = m.add((run.first + t) * columns);
                    let (rows, tile_columns) = (run.size[0].min(h - run.y), run.size[1].min(w - x));
                    let outputs = |y, row, pixel| TileOutputs { y, row, pixel, rows, columns: tile_columns };
                    if T::DTYPE == DType::F32 {
                        let to = outputs(y.cast(), w * self.columns, self.columns);
                        kernels::output(self.level, run.size, m, plane, columns, bias, to);
                        continue;
                    }
                    scratch::with(TILE * TILE * columns, |wide: &mut [f32]| {
                        let to = outputs(wide.as_mut_ptr(), TILE * columns, columns);
                        kernels::output(self.level, run.size, m, plane, columns, bias, to);
                        for (r, q) in (0..rows).flat_map(|r| (0..tile_columns).map(move |q| (r, q))) {
                            let to = y.add((r * w + q) * self.columns);
                            let to = std::slice::from_raw_parts_mut(to, columns);
                            cast(&wide[(r * TILE + q) * columns..][..columns], to);
                        }
                    });
                }
            });
        });
    }

    /// `m (+)= v u` at all points, for a run of channels: `v` `[36][tiles][channels]` with the stride of its planes.
    ///
    /// # Safety
    /// The operands must hold the tiles of the block and the weights.
    unsafe fn multiply(
        &self,
        block: &TileBlock,
        (v, v_plane): (SharedPtr<f32>, usize),
        weights: &RunWeights,
        streamed: Streamed,
        sums: TileSums,
    ) {
        let channels = &weights.channels;
        let columns = weights.registers * self.level.lanes();
        let most = tile::rows(self.level, weights.registers);
        let kind = if channels.start == 0 { StoreKind::Cached } else { StoreKind::Add };
        let store = TileStore { columns, kind };
        let taps = [Tap { offset: channels.start, row: 0, len: channels.len() }];
        for point in 0..PLANES {
            let tiles = block.tiles_at(point);
            let parts = tiles.len().div_ceil(most);
            let u = weights.u.add(point * weights.plane);
            let v_of = |point: usize, tiles: Range<usize>| {
                let first = v.at(point * v_plane + tiles.start * self.channels);
                std::slice::from_raw_parts(first.cast_const(), tiles.len() * self.channels)
            };
            let next = point + 1 < PLANES;
            let ahead: [&[f32]; 2] = match streamed {
                Streamed::Weights if next => {
                    [std::slice::from_raw_parts(u.add(weights.plane), channels.len() * columns), &[]]
                }
                // Runs of some of the channels are too far apart.
                Streamed::Tiles if channels.len() == self.channels => {
                    let first = if next { block.tiles_at(point + 1) } else { 0..0 };
                    let first = first.start..first.end.min(first.start + most);
                    [
                        v_of(point, tiles.start + tiles.len() / parts..tiles.end),
                        v_of((point + 1) % PLANES, first),
                    ]
                }
                _ => [&[], &[]],
            };
            let mut ahead = Prefetch::new(ahead, parts);
            for part in 0..parts {
                let rows =
                    tiles.start + part * tiles.len() / parts..tiles.start + (part + 1) * tiles.len() / parts;
                let count = rows.len();
                let (mut from, mut to) =
                    ([std::ptr::null(); tile::MAX_ROWS], [std::ptr::null_mut(); tile::MAX_ROWS]);
                for (i, row) in rows.enumerate() {
                    from[i] = v.at(point * v_plane + row * self.channels).cast_const();
                    to[i] = sums.m.add(point * sums.plane + row * sums.pitch);
                }
                let (from, to, null) = (from.as_ptr(), to.as_ptr(), std::ptr::null());
                let ahead = ahead.cursor(channels.len());
                tile::run_ahead(self.level, count, weights.registers, from, &taps, u, null, to, store, ahead);
            }
        }
    }
}

/// Transformed weights of a panel for a run of channels, `[36][channels][registers]`, with the stride of the planes.
struct RunWeights {
    u: *const f32,
    plane: usize,
    registers: usize,
    channels: Range<usize>,
}

/// Transformed outputs of a block of tiles, `[36][tiles][columns]`: first column, and the strides of planes and tiles.
#[derive(Clone, Copy)]
struct TileSums {
    m: *mut f32,
    plane: usize,
    pitch: usize,
}

/// Operand of a matmul that is not in the thread's cache, and is prefetched.
#[derive(Clone, Copy)]
enum Streamed {
    Tiles,
    Weights,
}

/// Transforms the inputs of a row of tiles of a block, from maps of `channels` channels.
///
/// # Safety
/// The planes must hold the tiles of the block.
unsafe fn input_tiles<T: Stored<Compute = f32>>(
    level: Level,
    s: &ConvShape,
    source: ConvInput<T>,
    channels: usize,
    block: &TileBlock,
    row: (usize, usize),
    to: TilePlanes,
) {
    let image = s.h * s.w * channels;
    let prologue = source.prologue.map(|prologue| ClampPrologue {
        scale: prologue.scale.as_ptr(),
        shift: prologue.shift.as_ptr(),
        bounds: prologue.bounds().expect("`forward_supports` accepts activations that clamp"),
    });
    let y = row.1 * TILE;
    let rows = y.saturating_sub(1)..s.h.min(y + TILE + 1);
    with_rows(&source.x[row.0 * image..][..image], s.w * channels, rows, |x| {
        block.runs(row, |run| {
            let map = ImageMap { x, h: s.h, w: s.w, channels };
            let to = TilePlanes { ptr: to.ptr.wrapping_add(run.first * to.tile), ..to };
            let position = RunPosition { y: run.y, x: run.x, count: run.count };
            kernels::input(level, run.size, map, prologue, position, to);
        });
    });
}

/// Calls `f` with a pointer to the first element of a map in f32, of which only the given rows can be read.
fn with_rows<T: Stored<Compute = f32>>(
    map: &[T],
    pitch: usize,
    rows: Range<usize>,
    f: impl FnOnce(*const f32),
) {
    T::load(&map[rows.start * pitch..rows.end * pitch], |wide| {
        f(wide.as_ptr().wrapping_sub(rows.start * pitch));
    });
}

/// Stride of planes of `len` elements.
fn padded(len: usize) -> usize {
    len + PLANE_PADDING
}
