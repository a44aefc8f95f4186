//! Weight gradient in bf16: at each tap, a matmul that reduces over the grid pixels of a band.
//!
//! One operand of the tiles has rows of pixels, so a band of it is transposed; the other has pairs of neighbouring pixels. Input and
//! output gradient share the grid of the band's planes, where padding is zero in both. A tap is a distance between the pixels of both, so
//! it moves the transposed operand, the input. A single tap moves nothing, and transposes the operand of fewer channels.
//!
//! A task sums consecutive bands, for a range of the transposed channels. The sums of tasks are added in order.
use super::gather::{BandSplit, Gather, NO_TARGET, Planes, TileBand};
use super::tiles::{self, BLOCK, STEP, STEP_WORDS, Step};
use super::words::{self, SQUARE};
use crate::conv_shape::ConvShape;
use crate::cpu::parallel::{DisjointSlice, for_each_task};
use crate::cpu::scratch;
use crate::dtype::bf16;
use crate::ops::conv::cpu::ConvInput;
use std::ops::Range;

/// Target number of tasks.
const TASKS: usize = 8;
/// Most elements of all partial sums.
const MAX_PARTIAL_SUMS: usize = 1 << 19;
/// Most bytes of both operands of a band, which stay in the L2 cache.
const BAND_BYTES: usize = 1 << 20;
/// Most grid pixels of a band.
const MAX_BAND_PIXELS: usize = 4096;

/// [`super::super::weight_gradient`] of bf16 operands, in f32.
pub(in crate::ops::conv::cpu) fn weight_gradient(
    s: &ConvShape,
    x: ConvInput<bf16>,
    dy: &[bf16],
    dw: &mut [f32],
) {
    if s.output_len() == 0 {
        return dw.fill(0.0);
    }
    assert!(dy.len() < NO_TARGET as usize, "an output of {} elements is too large for one call", dy.len());
    let gather = Gather::forward(s);
    let work = WeightGradientSplit::of(&gather);
    let size = work.sums_len();
    scratch::with(work.chunks * size, |partial: &mut [f32]| {
        let sums = DisjointSlice::new(partial);
        for_each_task(work.chunks * work.slices, |task| {
            let (chunk, slice) = (task / work.slices, task % work.slices);
            let blocks = slice * work.row_blocks / work.slices..(slice + 1) * work.row_blocks / work.slices;
            let block = work.taps * work.column_blocks * BLOCK * BLOCK;
            // SAFETY: each task has its own sums.
            let sums = unsafe { sums.slice(chunk * size + blocks.start * block, blocks.len() * block) };
            let bands = chunk * work.split.bands / work.chunks..(chunk + 1) * work.split.bands / work.chunks;
            for number in bands.clone() {
                let band = work.split.band(&gather.plan, number);
                let part = BandPart { band, blocks: blocks.clone(), add: number > bands.start };
                add_band(&gather, &work, x, dy, &part, sums);
            }
        });
        work.reduce(partial, dw);
    });
}

/// Partition of a weight gradient.
struct WeightGradientSplit {
    split: BandSplit,
    planes: Planes,
    taps: usize,
    /// The output gradient is transposed, not the input.
    swapped: bool,
    /// Input and output channels.
    depth: usize,
    outputs: usize,
    /// Blocks of the transposed channels and of the paired ones.
    row_blocks: usize,
    column_blocks: usize,
    /// Number of partial sums, each over consecutive bands.
    chunks: usize,
    /// Number of parts of the transposed channels.
    slices: usize,
}

impl WeightGradientSplit {
    fn of(gather: &Gather) -> WeightGradientSplit {
        let plan = &gather.plan;
        let (taps, depth, outputs) = (plan.phases[0].taps.len(), plan.depth, plan.target[2]);
        let swapped = taps == 1 && depth > outputs;
        let [input_blocks, output_blocks] = [depth, outputs].map(|c| c.div_ceil(BLOCK));
        let (row_blocks, column_blocks) =
            if swapped { (output_blocks, input_blocks) } else { (input_blocks, output_blocks) };
        let size = taps * row_blocks * column_blocks * BLOCK * BLOCK;
        let most_chunks = (MAX_PARTIAL_SUMS / size).clamp(1, TASKS);
        let slices = TASKS.div_ceil(most_chunks).min(row_blocks);
        let planes = plan.step[0] * plan.step[1];
        let pixel = (row_blocks.div_ceil(slices) * planes + column_blocks) * BLOCK * size_of::<bf16>();
        let total = plan.n * plan.grid[0] * plan.grid[1];
        let pixels = (BAND_BYTES / pixel).min(total.div_ceil(most_chunks)).clamp(STEP, MAX_BAND_PIXELS);
        let split = BandSplit::of(plan, pixels);
        let chunks = most_chunks.min(split.bands);
        let planes = Planes::new(plan, &split);
        WeightGradientSplit {
            split,
            planes,
            taps,
            swapped,
            depth,
            outputs,
            row_blocks,
            column_blocks,
            chunks,
            slices,
        }
    }

    /// Elements of one sum of all weights, `[row block][column block][tap][row][column]`.
    fn sums_len(&self) -> usize {
        self.taps * self.row_blocks * self.column_blocks * BLOCK * BLOCK
    }

    /// Adds the partial sums and stores them as `[output][tap][input]`.
    fn reduce(&self, partial: &[f32], dw: &mut [f32]) {
        let size = self.sums_len();
        let out = DisjointSlice::new(dw);
        for_each_task(self.row_blocks * self.column_blocks, |task| {
            let blocks = [task / self.column_blocks, task % self.column_blocks];
            let [inputs, outputs] = if self.swapped { [blocks[1], blocks[0]] } else { blocks };
            let columns = inputs * BLOCK..((inputs + 1) * BLOCK).min(self.depth);
            for tap in 0..self.taps {
                let at = (task * self.taps + tap) * BLOCK * BLOCK;
                let mut sum = [0.0f32; BLOCK * BLOCK];
                for chunk in partial.chunks_exact(size) {
                    sum.iter_mut().zip(&chunk[at..]).for_each(|(sum, part)| *sum += part);
                }
                if !self.swapped {
                    sum = transposed(&sum);
                }
                for (j, row) in sum.chunks_exact(BLOCK).enumerate().take(self.outputs - outputs * BLOCK) {
                    let start = ((outputs * BLOCK + j) * self.taps + tap) * self.depth + columns.start;
                    // SAFETY: each task has its own columns and outputs.
                    unsafe { out.slice(start, columns.len()) }.copy_from_slice(&row[..columns.len()]);
                }
            }
        });
    }
}

fn transposed(block: &[f32; BLOCK * BLOCK]) -> [f32; BLOCK * BLOCK] {
    let mut out = [0.0; BLOCK * BLOCK];
    for (i, j) in [(0, 0), (0, SQUARE), (SQUARE, 0), (SQUARE, SQUARE)] {
        let (from, to) = (block[i * BLOCK + j..].as_ptr(), out[j * BLOCK + i..].as_mut_ptr());
        // SAFETY: both squares lie in the block; the CPU has AVX-512.
        unsafe { words::transpose(from, BLOCK, to, BLOCK) };
    }
    out
}

/// Part of a weight gradient: one band, for some blocks of transposed channels.
struct BandPart {
    band: TileBand,
    blocks: Range<usize>,
    /// Adds to the sums; otherwise overwrites them.
    add: bool,
}

/// Operands of the tiles for one band.
struct BandOperands<'a> {
    /// Words of `[channel][pixel]`.
    rows: &'a [u32],
    /// Pixels between rows.
    pitch: usize,
    /// Paired pixels of [`pair_pixels`].
    words: &'a [u32],
    /// Grid pixels, in whole steps.
    pixels: usize,
}

fn add_band(
    gather: &Gather,
    work: &WeightGradientSplit,
    x: ConvInput<bf16>,
    dy: &[bf16],
    part: &BandPart,
    sums: &mut [f32],
) {
    let BandPart { band, blocks, add } = part;
    let planes = &work.planes;
    let pixels = planes.pixels(band).next_multiple_of(STEP);
    let rows = |channels: usize| blocks.start * BLOCK..(blocks.end * BLOCK).min(channels);
    let (inputs, outputs) =
        if work.swapped { (0..work.depth, rows(work.outputs)) } else { (rows(work.depth), 0..work.outputs) };
    let [input_width, output_width] = [&inputs, &outputs].map(|c| c.len().next_multiple_of(BLOCK));
    let input_pixels = planes.count() * planes.len;
    scratch::with(input_pixels * input_width, |input: &mut [bf16]| {
        gather.copy(planes, band, x, inputs, input);
        scratch::with(pixels * output_width, |output: &mut [bf16]| {
            copy_targets(gather, planes, band, dy, outputs, output);
            let (rows, row_pixels, paired) =
                if work.swapped { (&*output, pixels, &*input) } else { (&*input, input_pixels, &*output) };
            let width = blocks.len() * BLOCK;
            let pitch = row_pixels.next_multiple_of(STEP);
            scratch::with(width * pitch / 2, |transposed: &mut [u32]| {
                transpose_pixels(rows, width, transposed, pitch / 2);
                scratch::with(work.column_blocks * pixels / STEP * STEP_WORDS, |words: &mut [u32]| {
                    pair_pixels(&paired[..pixels * work.column_blocks * BLOCK], work.column_blocks, words);
                    let operands = BandOperands { rows: transposed, pitch, words, pixels };
                    multiply_band(gather, work, &operands, *add, sums);
                });
            });
        });
    });
}

/// Copies channels of the output gradient to the grid of a band, with zeros in the padding.
fn copy_targets(
    gather: &Gather,
    planes: &Planes,
    band: &TileBand,
    dy: &[bf16],
    channels: Range<usize>,
    out: &mut [bf16],
) {
    let width = channels.len().next_multiple_of(BLOCK);
    scratch::with(out.len() / width, |targets: &mut [u32]| {
        gather.targets(planes, band, &gather.plan.phases[0], targets);
        for (target, out) in targets.iter().zip(out.chunks_exact_mut(width)) {
            let copied = if *target == NO_TARGET { 0 } else { channels.len() };
            let (copy, rest) = out.split_at_mut(copied);
            if copied > 0 {
                copy.copy_from_slice(&dy[*target as usize + channels.start..][..copied]);
            }
            rest.fill(bf16::ZERO);
        }
    });
}

/// Transposes `[pixel][channel]` to words of `[channel][pixel]`, whose rows are `pitch` words apart. Rows end with zeros.
fn transpose_pixels(x: &[bf16], width: usize, out: &mut [u32], pitch: usize) {
    let pixels = x.len() / width;
    let pixel = |p: usize, c: usize| if p < pixels { &x[p * width + c..][..BLOCK] } else { &[] };
    for first in (0..2 * pitch).step_by(STEP) {
        for c in (0..width).step_by(BLOCK) {
            let mut pairs = [0u32; SQUARE * BLOCK];
            for (i, pair) in pairs.chunks_exact_mut(BLOCK).enumerate() {
                let [low, high] = [0, 1].map(|k| pixel(first + 2 * i + k, c));
                // SAFETY: a row has two halves; the CPU has AVX-512.
                unsafe { words::pair(low, high, pair.as_mut_ptr(), SQUARE) };
            }
            for half in 0..2 {
                let to = out[(c + half * SQUARE) * pitch + first / 2..].as_mut_ptr();
                // SAFETY: 16 rows of 16 words, from the square to rows of `pitch` words; the CPU has AVX-512.
                unsafe { words::transpose(pairs[half * SQUARE..].as_ptr(), BLOCK, to, pitch) };
            }
        }
    }
}

/// Pairs neighbouring pixels of `[pixel][block][channel]`: `[block][step][half][pair][channel]`.
fn pair_pixels(x: &[bf16], blocks: usize, out: &mut [u32]) {
    let width = blocks * BLOCK;
    let pixels = x.len() / width;
    for (i, rows) in x.chunks_exact(2 * width).enumerate() {
        let (low, high) = rows.split_at(width);
        for block in 0..blocks {
            let at = (block * pixels / STEP + i / SQUARE) * STEP_WORDS + i % SQUARE * SQUARE;
            let [low, high] = [low, high].map(|row| &row[block * BLOCK..][..BLOCK]);
            let out = out[at..][..STEP_WORDS / 2 + SQUARE].as_mut_ptr();
            // SAFETY: the second half of a step follows the first; the CPU has AVX-512.
            unsafe { words::pair(low, high, out, STEP_WORDS / 2) };
        }
    }
}

fn multiply_band(
    gather: &Gather,
    work: &WeightGradientSplit,
    operands: &BandOperands,
    add: bool,
    sums: &mut [f32],
) {
    let plan = &gather.plan;
    let pitch = operands.pitch * size_of::<bf16>();
    let steps: Vec<Step> = (0..operands.pixels / STEP)
        .map(|k| Step {
            a: (k * STEP * size_of::<bf16>()) as u32,
            b: (k * STEP_WORDS * size_of::<u32>()) as u32,
        })
        .collect();
    tiles::with_tiles(|| {
        for (i, sums) in sums.chunks_exact_mut(work.taps * BLOCK * BLOCK).enumerate() {
            let (row_block, column_block) = (i / work.column_blocks, i % work.column_blocks);
            let columns = operands.words[column_block * steps.len() * STEP_WORDS..].as_ptr().cast();
            for (tap, sums) in plan.phases[0].taps.iter().zip(sums.chunks_exact_mut(BLOCK * BLOCK)) {
                let offset = row_block * BLOCK * pitch + work.planes.tap(plan, tap) * size_of::<bf16>();
                let first = operands.rows.as_ptr().cast::<u8>().wrapping_add(offset);
                // SAFETY: a plane has whole steps of pixels and the farthest tap after them; there are words for every step.
                unsafe {
                    let halves = [first, first.wrapping_add(BLOCK / 2 * pitch)];
                    tiles::multiply(halves, pitch, columns, &steps, add, sums.as_mut_ptr());
                }
            }
        }
    });
}
