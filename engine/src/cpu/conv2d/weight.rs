//! The weight gradient in f32: outer products of `dy` and `x`, held in registers over a band of pixels and added to
//! the partial sum of the task's chunk of bands; partial sums are added in order.
//!
//! Every tap visits only the pixels whose input exists, so `x` is read in place. Only where a tap has few channels
//! are the taps of a kernel row taken together, over rows that are copied with their horizontal padding.
use super::Shared;
use super::band::pad_rows;
use super::groups::Groups;
use super::outer::{self, Factor, Sum, Walk};
use crate::conv_shape::ConvShape;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Level};
use rayon::prelude::*;
use std::ops::Range;

/// Pixels of a band: both factors stay in the second-level cache while all tiles pass over it.
const PIXELS: usize = 224;
/// Fewer channels than this in a tap are taken together with those of its neighbours.
const FEW: usize = 16;
/// Partial sums take at most this many elements altogether (but for one, which is always needed).
const PARTIAL: usize = 1 << 19;
/// Tasks that the work is cut into where the weights allow it.
const TASKS: usize = 16;

/// A run of weights `row .. row + len` of every output channel, and the output pixels that feed it.
struct Run {
    /// Input row and column of the first output pixel (of an unpadded window), which may lie outside.
    dy: isize,
    dx: isize,
    row: usize,
    len: usize,
    rows: Range<usize>,
    columns: Range<usize>,
}

/// How the work of one weight gradient is cut.
struct Cut {
    level: Level,
    groups: Groups,
    runs: Vec<Run>,
    /// Weights of one output channel of a block of groups.
    k: usize,
    /// Vectors run over output channels and scalars over the window, instead of the other way round.
    swapped: bool,
    /// Rows are copied with their padding.
    padded: bool,
    /// Images and output rows of a band; how many bands there are, and how many in an image.
    images: usize,
    rows: usize,
    bands: usize,
    image_bands: usize,
    /// Partial sums, each over neighbouring bands.
    chunks: usize,
    /// Slices of the output channels of a block.
    slices: usize,
}

/// `dw`, overwritten, from `x` and `dy`.
pub(super) fn gradient(s: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    if dy.is_empty() {
        return dw.fill(0.0);
    }
    let s = &flattened(s);
    let cut = Cut::of(s);
    let size = cut.groups.count * cut.groups.outputs * cut.k;
    let direct = cut.chunks == 1 && !cut.swapped && cut.groups.merged == 1;
    scratch::with(if direct { 0 } else { cut.chunks * size }, |partial: &mut [f32]| {
        let sums = Shared(if direct { dw.as_mut_ptr() } else { partial.as_mut_ptr() });
        let parts = cut.groups.count * cut.slices;
        (0..cut.chunks * parts).into_par_iter().with_max_len(1).for_each(|task| {
            let (chunk, part) = (task / parts, task % parts);
            let bands = chunk * cut.bands / cut.chunks..(chunk + 1) * cut.bands / cut.chunks;
            for band in bands.clone() {
                let sum = sums.at(chunk * size);
                run_band(s, &cut, x, dy, band, part, sum, band > bands.start);
            }
        });
        if !direct {
            reduce(s, &cut, partial, size, dw);
        }
    });
}

/// A pointwise convolution without stride sees the batch as one tall image.
fn flattened(s: &ConvShape) -> ConvShape {
    if s.kernel == [1, 1] && s.stride == [1, 1] && s.padding == [0, 0] {
        return ConvShape { n: 1, h: s.n * s.h, ..*s };
    }
    *s
}

impl Cut {
    fn of(s: &ConvShape) -> Cut {
        let level = simd::level();
        let lanes = level.lanes();
        let groups = Groups::of(s, lanes);
        let joined = groups.count == 1 && s.dilation[1] == 1 && s.kernel[1] > 1 && groups.inputs < FEW;
        let runs = runs(s, &groups, joined);
        let fill = |len: usize| len as f64 / len.next_multiple_of(lanes) as f64;
        let swapped = fill(groups.outputs) > fill(runs.first().map_or(1, |r| r.len));
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
        let chunks = (PARTIAL.div_ceil(size)).clamp(1, 8).min(bands);
        let most = if swapped { 2 * lanes } else { outer::rows(level, 2) };
        let tiles = groups.outputs.div_ceil(most);
        let slices = TASKS.div_ceil(chunks * groups.count).clamp(1, tiles);
        let padded = joined && s.padding[1] > 0;
        Cut { level, groups, runs, k, swapped, padded, images, rows, bands, image_bands, chunks, slices }
    }
}

/// The taps, one by one or joined by kernel row, each with the output pixels whose input exists.
fn runs(s: &ConvShape, groups: &Groups, joined: bool) -> Vec<Run> {
    // Output positions `o` with `0 <= o * stride + offset < size`.
    let valid = |a: usize, offset: isize, size: usize, out: usize| {
        let stride = s.stride[a] as isize;
        let first = (-offset).max(0).div_ceil_by(stride);
        let end = (size as isize - offset).max(0).div_ceil_by(stride).min(out);
        first.min(end)..end
    };
    let mut runs = Vec::new();
    for ky in 0..s.kernel[0] {
        let dy = (ky * s.dilation[0]) as isize - s.padding[0] as isize;
        let rows = valid(0, dy, s.h, s.out_h());
        if joined {
            let len = s.kernel[1] * groups.inputs;
            let (dx, columns) = (-(s.padding[1] as isize), 0..s.out_w());
            runs.push(Run { dy, dx, row: ky * len, len, rows, columns });
            continue;
        }
        for kx in 0..s.kernel[1] {
            let dx = (kx * s.dilation[1]) as isize - s.padding[1] as isize;
            let columns = valid(1, dx, s.w, s.out_w());
            let row = (ky * s.kernel[1] + kx) * groups.inputs;
            runs.push(Run { dy, dx, row, len: groups.inputs, rows: rows.clone(), columns });
        }
    }
    runs
}

trait DivCeilBy {
    /// `self / by`, rounded up, of a number that is not negative.
    fn div_ceil_by(self, by: isize) -> usize;
}

impl DivCeilBy for isize {
    fn div_ceil_by(self, by: isize) -> usize {
        (self as usize).div_ceil(by as usize)
    }
}

/// One band of pixels into the part of `sum` that belongs to `part`, a block of groups and a slice of its outputs.
fn run_band(
    s: &ConvShape,
    cut: &Cut,
    x: &[f32],
    dy: &[f32],
    band: usize,
    part: usize,
    sum: *mut f32,
    add: bool,
) {
    let n0 = band / cut.image_bands * cut.images;
    let images = cut.images.min(s.n - n0);
    let y0 = band % cut.image_bands * cut.rows;
    let y1 = (y0 + cut.rows).min(s.out_h());
    if !cut.padded {
        let source = Source {
            x: x[n0 * s.h * s.w * s.c_in..].as_ptr(),
            row: s.w,
            image: s.h * s.w,
            first: 0,
            left: 0,
        };
        return tiles(s, cut, &source, dy, [n0, images, y0, y1], part, sum, add);
    }
    let row = (s.out_w() - 1) * s.stride[1] + s.kernel[1];
    let rows = (y1 - y0 - 1) * s.stride[0] + (s.kernel[0] - 1) * s.dilation[0] + 1;
    let first = (y0 * s.stride[0]) as isize - s.padding[0] as isize;
    scratch::with(images * rows * row * s.c_in, |copy: &mut [f32]| {
        for (i, out) in copy.chunks_exact_mut(rows * row * s.c_in).enumerate() {
            let image = &x[(n0 + i) * s.h * s.w * s.c_in..][..s.h * s.w * s.c_in];
            pad_rows(image, s.w * s.c_in, first, s.padding[1] * s.c_in, row * s.c_in, out);
        }
        let source = Source { x: copy.as_ptr(), row, image: rows * row, first, left: s.padding[1] };
        tiles(s, cut, &source, dy, [n0, images, y0, y1], part, sum, add);
    });
}

/// Where a band's input lies: pixels between rows and images, the input row of its first row, and the columns of
/// padding before the first pixel.
struct Source {
    x: *const f32,
    row: usize,
    image: usize,
    first: isize,
    left: usize,
}

/// All tiles over one band: images `n0..n0 + images`, output rows `y0..y1`.
fn tiles(
    s: &ConvShape,
    cut: &Cut,
    source: &Source,
    dy: &[f32],
    [n0, images, y0, y1]: [usize; 4],
    part: usize,
    sum: *mut f32,
    add: bool,
) {
    let (group, slice) = (part / cut.slices, part % cut.slices);
    let outputs = cut.groups.outputs;
    let sum = sum.wrapping_add(group * outputs * cut.k);
    let lanes = cut.level.lanes();
    // Slices start on whole registers where the vectors run over the outputs.
    let unit = if cut.swapped { lanes } else { 1 };
    let units = outputs.div_ceil(unit);
    let own = slice * units / cut.slices * unit..((slice + 1) * units / cut.slices * unit).min(outputs);
    for run in &cut.runs {
        let rows = y0.max(run.rows.start)..y1.min(run.rows.end);
        let walk = Walk { images, rows: rows.len(), columns: run.columns.len() };
        let (oy, ox) = (rows.start.min(s.out_h() - 1), run.columns.start.min(s.out_w() - 1));
        let iy = (oy * s.stride[0]) as isize + run.dy - source.first;
        let ix = (ox * s.stride[1]) as isize + run.dx + source.left as isize;
        let start = (iy * source.row as isize + ix) * s.c_in as isize;
        let input = Factor {
            ptr: source.x.wrapping_offset(start).wrapping_add(group * cut.groups.inputs),
            image: source.image * s.c_in,
            row: s.stride[0] * source.row * s.c_in,
            pixel: s.stride[1] * s.c_in,
        };
        let output = Factor {
            ptr: dy[((n0 * s.out_h() + oy) * s.out_w() + ox) * s.c_out + group * outputs..].as_ptr(),
            image: s.out_h() * s.out_w() * s.c_out,
            row: s.out_w() * s.c_out,
            pixel: s.c_out,
        };
        let product = |scalars, from: Range<usize>, vectors, over: Range<usize>, at: usize, pitch: usize| {
            // SAFETY: the run's pixels have their input inside the source, and the ranges lie inside a pixel's
            // channels; tasks own their part of the sum.
            unsafe {
                products(cut.level, walk, scalars, from, vectors, over, sum.wrapping_add(at), pitch, add)
            }
        };
        if cut.swapped {
            product(input, 0..run.len, output, own.clone(), run.row * outputs, outputs);
        } else {
            product(output, own.clone(), input, 0..run.len, run.row, cut.k);
        }
    }
}

/// `sum[j * pitch + v] (+)=` the product of scalar `j` and vector element `v`, tile by tile.
///
/// # Safety
/// As for [`outer::run`], over the ranges `from` of the scalars and `over` of the vectors.
unsafe fn products(
    level: Level,
    walk: Walk,
    scalars: Factor,
    from: Range<usize>,
    vectors: Factor,
    over: Range<usize>,
    sum: *mut f32,
    pitch: usize,
    add: bool,
) {
    let lanes = level.lanes();
    let mut v = over.start;
    while v < over.end {
        let left = (over.end - v).div_ceil(lanes);
        let registers = if left == 1 || left == 3 { left } else { 2 };
        let last = (over.end - v - (registers - 1) * lanes).min(lanes);
        let tiles = from.len().div_ceil(outer::rows(level, registers));
        for t in 0..tiles {
            let (a, b) = (from.start + t * from.len() / tiles, from.start + (t + 1) * from.len() / tiles);
            let scalars = Factor { ptr: scalars.ptr.wrapping_add(a), ..scalars };
            let vectors = Factor { ptr: vectors.ptr.wrapping_add(v), ..vectors };
            let sum = Sum { ptr: sum.wrapping_add(a * pitch + v), pitch, last, add };
            outer::run(level, b - a, registers, walk, scalars, vectors, sum);
        }
        v += registers * lanes;
    }
}

/// Adds the partial sums in order and brings them into the layout of the weight.
fn reduce(s: &ConvShape, cut: &Cut, partial: &[f32], size: usize, dw: &mut [f32]) {
    let g = &cut.groups;
    let k = s.kernel[0] * s.kernel[1] * s.group_in();
    dw.par_chunks_mut(k).enumerate().with_min_len(16).for_each(|(o, dw)| {
        let (group, o) = (o / g.outputs, o % g.outputs);
        let part = o / s.group_out();
        for (tap, dw) in dw.chunks_exact_mut(s.group_in()).enumerate() {
            let row = (tap * g.merged + part) * s.group_in();
            let base = group * g.outputs * cut.k;
            let (at, step) = if cut.swapped {
                (base + row * g.outputs + o, g.outputs)
            } else {
                (base + o * cut.k + row, 1)
            };
            for (i, dw) in dw.iter_mut().enumerate() {
                *dw = partial[at + i * step..].iter().step_by(size).sum();
            }
        }
    });
}
