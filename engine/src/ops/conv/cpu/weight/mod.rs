//! Weight gradient: outer products of `dy` and `x`, accumulated in registers over a band of pixels and added to the partial sum of the
//! task's chunk of bands. Partial sums are added in order.
//!
//! Every tap visits only the pixels whose input lies inside the image, so `x` is read in place. Where a tap has few channels, the taps
//! of a kernel row are joined, over rows copied with horizontal padding. In bf16 a band is always copied to words that pair
//! neighbouring pixels (`bands`).
mod bands;
pub(in crate::ops::conv::cpu) mod outer;

use crate::conv_shape::ConvShape;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Level};
use crate::dtype::bf16;
use crate::ops::conv::cpu::direct::pad_rows;
use crate::ops::conv::cpu::groups::Groups;
use crate::ops::conv::cpu::prefetch::Prefetch;
use crate::ops::conv::cpu::{ConvInput, SharedPtr};
use bands::{BandOperand, with_paired_band};
use outer::{OuterOperand, OuterSum, PixelLoop};
use rayon::prelude::*;
use std::ops::Range;

/// Pixels per band: both operands mostly stay in the L2 cache while all tiles are computed. Fewer pixels would read and write the sums
/// too often.
const PIXELS: usize = 224;
/// Taps with fewer channels than this are joined with their neighbours.
const MIN_TAP_CHANNELS: usize = 16;
/// Limit of the total elements of all partial sums for up to half of [`TASKS`] chunks; a quarter of it for more chunks.
const MAX_PARTIAL_SUMS: usize = 1 << 19;
/// Target number of tasks.
const TASKS: usize = 16;

/// Run of weights `row..row + len` of every output channel, and the output pixels that contribute to it.
struct TapRun {
    /// Input row and column of the run's first tap for output pixel (0, 0). They may lie outside the image.
    dy: isize,
    dx: isize,
    row: usize,
    len: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

/// Partition of the work of one weight gradient.
struct WorkSplit {
    level: Level,
    groups: Groups,
    /// Operands are bf16, in words that pair neighbouring pixels.
    pairs: bool,
    runs: Vec<TapRun>,
    /// Weights per output channel of a block of groups.
    k: usize,
    /// Vectors run over output channels and scalars over the window, instead of the reverse.
    swapped: bool,
    /// Rows are copied with padding.
    padded: bool,
    /// Images and output rows per band, number of bands in total and per image.
    images: usize,
    rows: usize,
    bands: usize,
    image_bands: usize,
    /// Number of partial sums, each over consecutive bands.
    chunks: usize,
    /// Number of slices of the output channels of a block.
    slices: usize,
}

/// Input and output gradient.
#[derive(Clone, Copy)]
pub(in crate::ops::conv::cpu) enum WeightGradOperands<'a> {
    F32 {
        x: ConvInput<'a>,
        dy: &'a [f32],
    },
    /// bf16, on CPUs with bf16 instructions, without groups.
    Bf16 {
        x: &'a [bf16],
        dy: &'a [bf16],
    },
}

/// Weight gradient. `dw` is overwritten.
pub(in crate::ops::conv::cpu) fn gradient(s: &ConvShape, operands: WeightGradOperands, dw: &mut [f32]) {
    if s.output_len() == 0 {
        return dw.fill(0.0);
    }
    let pairs = matches!(operands, WeightGradOperands::Bf16 { .. });
    let s = &flattened(s, pairs);
    let split = WorkSplit::of(s, pairs);
    let size = split.groups.count * split.groups.outputs * split.k;
    let direct = split.chunks == 1 && !split.swapped && split.groups.merged == 1;
    scratch::with(if direct { 0 } else { split.chunks * size }, |partial: &mut [f32]| {
        let sums = SharedPtr(if direct { dw.as_mut_ptr() } else { partial.as_mut_ptr() });
        let parts = split.groups.count * split.slices;
        (0..split.chunks * parts).into_par_iter().with_max_len(1).for_each(|task| {
            let (chunk, part) = (task / parts, task % parts);
            let bands = chunk * split.bands / split.chunks..(chunk + 1) * split.bands / split.chunks;
            for band in bands.clone() {
                let next =
                    if band + 1 < bands.end { split.band(s, band + 1).sources(s) } else { [0..0, 0..0] };
                let mut work = BandWork {
                    band: split.band(s, band),
                    part,
                    sum: sums.at(chunk * size),
                    add: band > bands.start,
                    ahead: split.ahead(operands, next),
                };
                run_band(s, &split, operands, &mut work);
            }
        });
        if !direct {
            reduce(s, &split, partial, size, dw);
        }
    });
}

/// Treats the batch of a 1x1 convolution without stride as one tall image, of even width if pixels are paired.
fn flattened(s: &ConvShape, pairs: bool) -> ConvShape {
    if s.kernel != [1, 1] || s.stride != [1, 1] || s.padding != [0, 0] {
        return *s;
    }
    let pixels = s.n * s.h * s.w;
    let w = if pairs && pixels.is_multiple_of(2) { 1 << pixels.trailing_zeros().min(5) } else { s.w };
    ConvShape { n: 1, h: pixels / w, w, ..*s }
}

impl WorkSplit {
    fn of(s: &ConvShape, pairs: bool) -> WorkSplit {
        let level = simd::level();
        let lanes = level.lanes();
        let groups = Groups::of(s, s.group_in().max(s.group_out()), lanes);
        let joined =
            groups.count == 1 && s.dilation[1] == 1 && s.kernel[1] > 1 && groups.inputs < MIN_TAP_CHANNELS;
        let runs = runs(s, &groups, joined, pairs);
        let run = runs.first().map_or(1, |r| r.len);
        // The unswapped layout needs no final transpose: swap only for a clear gain.
        let swapped = cost(level, groups.outputs, run) * 33 < cost(level, run, groups.outputs) * 32;
        let plane = s.out_h() * s.out_w();
        let (images, rows) = if plane >= PIXELS {
            (1, (PIXELS / s.out_w()).max(1))
        } else {
            ((PIXELS / plane).clamp(1, s.n), s.out_h())
        };
        let image_bands = s.out_h().div_ceil(rows);
        let bands = s.n.div_ceil(images) * image_bands;
        let k = s.kernel[0] * s.kernel[1] * groups.inputs;
        let size = groups.count * groups.outputs * k;
        let few = MAX_PARTIAL_SUMS.div_ceil(size).min(TASKS / 2);
        let chunks = few.max((MAX_PARTIAL_SUMS / 4 / size).min(TASKS)).min(bands);
        let most = if swapped { 2 * lanes } else { outer::rows(level, 2) };
        let tiles = groups.outputs.div_ceil(most);
        let padded = joined && s.padding[1] > 0;
        // Every slice reads (and, if padded, copies) all of `x`: it must have enough multiplications per pixel.
        let parts = chunks * groups.count;
        let enough = if runs.len() > 1 && !padded { TASKS } else { TASKS / 2 };
        let slices = if parts < enough { TASKS.div_ceil(parts).min(tiles) } else { 1 };
        WorkSplit {
            level,
            groups,
            pairs,
            runs,
            k,
            swapped,
            padded,
            images,
            rows,
            bands,
            image_bands,
            chunks,
            slices,
        }
    }

    fn band(&self, s: &ConvShape, number: usize) -> PixelBand {
        let (n, y) = (number / self.image_bands * self.images, number % self.image_bands * self.rows);
        PixelBand { n, images: self.images.min(s.n - n), rows: y..(y + self.rows).min(s.out_h()) }
    }

    /// Prefetch of the next band's operands, in as many parts as this band has tiles. Operands of which this task needs only a part are
    /// skipped.
    fn ahead<'a>(&self, operands: WeightGradOperands<'a>, next: [Range<usize>; 2]) -> Prefetch<'a> {
        let WeightGradOperands::F32 { x, dy } = operands else { return Prefetch::new([&[], &[]], 0) };
        let outputs = self.groups.outputs.div_ceil(self.slices);
        let tiles = self.runs.iter().map(|run| {
            let (vectors, scalars) = if self.swapped { (outputs, run.len) } else { (run.len, outputs) };
            vectors.div_ceil(2 * self.level.lanes()) * scalars.div_ceil(outer::rows(self.level, 2))
        });
        let tiles: usize = tiles.sum();
        let [input, output] = next;
        let x = if self.groups.count == 1 { &x.x[input] } else { &[] };
        let dy = if self.groups.count * self.slices == 1 { &dy[output] } else { &[] };
        Prefetch::new([x, dy], tiles)
    }
}

/// Cost of a pixel when registers run over `vectors`: 2 per multiplication, 1 per load.
fn cost(level: Level, vectors: usize, scalars: usize) -> usize {
    let registers = vectors.div_ceil(level.lanes());
    let loads = scalars.div_ceil(outer::rows(level, 2)) * registers + registers.div_ceil(2) * scalars;
    registers * scalars * 2 + loads
}

/// Images and output rows summed together.
struct PixelBand {
    n: usize,
    images: usize,
    rows: Range<usize>,
}

impl PixelBand {
    /// Elements of `x` and of `dy` read by the band.
    fn sources(&self, s: &ConvShape) -> [Range<usize>; 2] {
        let last_image = self.n + self.images - 1;
        let input = |row: usize| row.saturating_sub(s.padding[0]).min(s.h);
        let first = input(self.rows.start * s.stride[0]);
        let last = input((self.rows.end - 1) * s.stride[0] + (s.kernel[0] - 1) * s.dilation[0] + 1);
        let (x, y) = (s.w * s.c_in, s.out_w() * s.c_out);
        [
            (self.n * s.h + first) * x..(last_image * s.h + last) * x,
            (self.n * s.out_h() + self.rows.start) * y..(last_image * s.out_h() + self.rows.end) * y,
        ]
    }
}

/// One band of one part, which is a slice of the outputs of a block of groups.
struct BandWork<'a> {
    band: PixelBand,
    part: usize,
    sum: *mut f32,
    add: bool,
    ahead: Prefetch<'a>,
}

/// Runs of taps, single or joined by kernel row, each with the output pixels whose input lies inside the image.
fn runs(s: &ConvShape, groups: &Groups, joined: bool, pairs: bool) -> Vec<TapRun> {
    // Output positions `o` with `0 <= o * stride + offset < size`.
    let valid = |a: usize, offset: isize, size: usize, out: usize| {
        let steps = |distance: isize| (distance.max(0) as usize).div_ceil(s.stride[a]);
        let first = steps(-offset);
        let end = steps(size as isize - offset).min(out);
        first.min(end)..end
    };
    let mut runs = Vec::new();
    for ky in 0..s.kernel[0] {
        let dy = (ky * s.dilation[0]) as isize - s.padding[0] as isize;
        let rows = valid(0, dy, s.h, s.out_h());
        if joined {
            let len = s.kernel[1] * groups.inputs;
            let (dx, columns) = (-(s.padding[1] as isize), 0..s.out_w());
            runs.push(TapRun { dy, dx, row: ky * len, len, rows, columns });
            continue;
        }
        for kx in 0..s.kernel[1] {
            let dx = (kx * s.dilation[1]) as isize - s.padding[1] as isize;
            // Pairs read the zeros of the padding.
            let columns = if pairs { 0..s.out_w() } else { valid(1, dx, s.w, s.out_w()) };
            let row = (ky * s.kernel[1] + kx) * groups.inputs;
            runs.push(TapRun { dy, dx, row, len: groups.inputs, rows: rows.clone(), columns });
        }
    }
    runs
}

fn run_band(s: &ConvShape, split: &WorkSplit, operands: WeightGradOperands, work: &mut BandWork) {
    let PixelBand { n, images, ref rows } = work.band;
    let (x, dy) = match operands {
        WeightGradOperands::F32 { x, dy } => (x, dy),
        WeightGradOperands::Bf16 { x, dy } => {
            let rows = rows.clone();
            return with_paired_band(s, x, dy, n..n + images, rows, |x, dy| tiles(s, split, x, dy, work));
        }
    };
    let plane = s.out_h() * s.out_w();
    let output = BandOperand {
        x: dy[n * plane * s.c_out..].as_ptr(),
        row: s.out_w(),
        image: plane,
        first: 0,
        left: 0,
    };
    if !split.padded {
        if let Some(prologue) = x.prologue {
            let row = s.w * s.c_in;
            let [input, _] = work.band.sources(s);
            let first = (input.start / row - n * s.h) as isize;
            return scratch::with(input.len(), |copy: &mut [f32]| {
                prologue.apply(&x.x[input], copy);
                let source = BandOperand { x: copy.as_ptr(), row: s.w, image: s.h * s.w, first, left: 0 };
                tiles(s, split, &source, &output, work);
            });
        }
        let x = x.x[n * s.h * s.w * s.c_in..].as_ptr();
        let source = BandOperand { x, row: s.w, image: s.h * s.w, first: 0, left: 0 };
        return tiles(s, split, &source, &output, work);
    }
    let row = (s.out_w() - 1) * s.stride[1] + s.kernel[1];
    let height = (rows.len() - 1) * s.stride[0] + (s.kernel[0] - 1) * s.dilation[0] + 1;
    let first = (rows.start * s.stride[0]) as isize - s.padding[0] as isize;
    scratch::with(images * height * row * s.c_in, |copy: &mut [f32]| {
        for (i, out) in copy.chunks_exact_mut(height * row * s.c_in).enumerate() {
            let image = &x.x[(n + i) * s.h * s.w * s.c_in..][..s.h * s.w * s.c_in];
            pad_rows(image, s.w * s.c_in, first, s.padding[1] * s.c_in, row * s.c_in, x.prologue, out);
        }
        let source = BandOperand { x: copy.as_ptr(), row, image: height * row, first, left: s.padding[1] };
        tiles(s, split, &source, &output, work);
    });
}

/// Computes all tiles of one band.
fn tiles(s: &ConvShape, split: &WorkSplit, source: &BandOperand, target: &BandOperand, work: &mut BandWork) {
    let PixelBand { images, ref rows, .. } = work.band;
    let (group, slice) = (work.part / split.slices, work.part % split.slices);
    let outputs = split.groups.outputs;
    let sum = work.sum.wrapping_add(group * outputs * split.k);
    let lanes = split.level.lanes();
    // Slices start on whole registers if the vectors run over the outputs.
    let unit = if split.swapped { lanes } else { 1 };
    let units = outputs.div_ceil(unit);
    // Pixels per step along a row.
    let step = if split.pairs { 2 } else { 1 };
    let slice_outputs =
        slice * units / split.slices * unit..((slice + 1) * units / split.slices * unit).min(outputs);
    for run in &split.runs {
        let rows = rows.start.max(run.rows.start)..rows.end.min(run.rows.end);
        let walk = PixelLoop { images, rows: rows.len(), columns: run.columns.len().div_ceil(step) };
        let (oy, ox) = (rows.start.min(s.out_h() - 1), run.columns.start.min(s.out_w() - 1));
        let iy = (oy * s.stride[0]) as isize + run.dy - source.first;
        let ix = (ox * s.stride[1]) as isize + run.dx + source.left as isize;
        let start = (iy * source.row as isize + ix) * s.c_in as isize;
        let input = OuterOperand {
            ptr: source.x.wrapping_offset(start).wrapping_add(group * split.groups.inputs),
            image: source.image * s.c_in,
            row: s.stride[0] * source.row * s.c_in,
            pixel: step * s.stride[1] * s.c_in,
        };
        let start = ((oy as isize - target.first) * target.row as isize + ox as isize) * s.c_out as isize;
        let output = OuterOperand {
            ptr: target.x.wrapping_offset(start).wrapping_add(group * outputs),
            image: target.image * s.c_out,
            row: target.row * s.c_out,
            pixel: s.c_out,
        };
        let ahead = &mut work.ahead;
        // SAFETY: the inputs of the run's pixels lie inside the source, and the ranges inside a pixel's
        // channels; each task owns its part of the sum.
        unsafe {
            let outer_product = OuterProduct { level: split.level, pairs: split.pairs, walk, add: work.add };
            if split.swapped {
                let sum = sum.wrapping_add(run.row * outputs);
                outer_product.tiles(
                    (input, 0..run.len),
                    (output, slice_outputs.clone()),
                    sum,
                    outputs,
                    ahead,
                );
            } else {
                let sum = sum.wrapping_add(run.row);
                outer_product.tiles(
                    (output, slice_outputs.clone()),
                    (input, 0..run.len),
                    sum,
                    split.k,
                    ahead,
                );
            }
        }
    }
}

/// Outer product summed over pixels.
pub(in crate::ops::conv::cpu) struct OuterProduct {
    pub(in crate::ops::conv::cpu) level: Level,
    pub(in crate::ops::conv::cpu) pairs: bool,
    pub(in crate::ops::conv::cpu) walk: PixelLoop,
    pub(in crate::ops::conv::cpu) add: bool,
}

impl OuterProduct {
    /// `sum[j * pitch + v] (+)= sum over pixels of scalars[j] * vectors[v]`, tile by tile.
    ///
    /// # Safety
    /// The conditions of [`outer::run`], over the ranges of both operands.
    pub(in crate::ops::conv::cpu) unsafe fn tiles(
        &self,
        (scalars, from): (OuterOperand, Range<usize>),
        (vectors, over): (OuterOperand, Range<usize>),
        sum: *mut f32,
        pitch: usize,
        ahead: &mut Prefetch,
    ) {
        let lanes = self.level.lanes();
        let mut v = over.start;
        while v < over.end {
            let left = (over.end - v).div_ceil(lanes);
            let registers = if left == 1 || left == 3 { left } else { 2 };
            let last = (over.end - v - (registers - 1) * lanes).min(lanes);
            let tiles = from.len().div_ceil(outer::rows(self.level, registers));
            for t in 0..tiles {
                let (a, b) = (from.start + t * from.len() / tiles, from.start + (t + 1) * from.len() / tiles);
                let scalars = OuterOperand { ptr: scalars.ptr.wrapping_add(a), ..scalars };
                let vectors = OuterOperand { ptr: vectors.ptr.wrapping_add(v), ..vectors };
                let sum = OuterSum { ptr: sum.wrapping_add(a * pitch + v), pitch, last, add: self.add };
                let ahead = ahead.cursor(self.walk.images * self.walk.rows * self.walk.columns);
                outer::run(self.level, self.pairs, b - a, registers, self.walk, scalars, vectors, sum, ahead);
            }
            v += registers * lanes;
        }
    }
}

/// Adds the partial sums in order, and transposes the result to the layout of the weight.
fn reduce(s: &ConvShape, split: &WorkSplit, partial: &[f32], size: usize, dw: &mut [f32]) {
    let g = &split.groups;
    let k = s.kernel[0] * s.kernel[1] * s.group_in();
    dw.par_chunks_mut(k).enumerate().with_min_len(16).for_each(|(o, dw)| {
        let (group, o) = (o / g.outputs, o % g.outputs);
        let part = o / s.group_out();
        for (tap, dw) in dw.chunks_exact_mut(s.group_in()).enumerate() {
            let row = (tap * g.merged + part) * s.group_in();
            let base = group * g.outputs * split.k;
            let (at, step) = if split.swapped {
                (base + row * g.outputs + o, g.outputs)
            } else {
                (base + o * split.k + row, 1)
            };
            dw.fill(0.0);
            for sum in partial.chunks_exact(size) {
                for (i, dw) in dw.iter_mut().enumerate() {
                    *dw += sum[at + i * step];
                }
            }
        }
    });
}
