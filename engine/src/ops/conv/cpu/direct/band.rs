//! Executes a [`ConvPlan`] band by band. A band is a few rows of pixels, copied with padding into scratch memory that stays in the
//! L2 cache while all column blocks are computed from it.
use crate::cpu::scratch;
use crate::ops::conv::cpu::SharedPtr;
use crate::ops::conv::cpu::direct::panel::Panels;
use crate::ops::conv::cpu::direct::plan::{ConvPlan, Phase, TapPosition, append};
use crate::ops::conv::cpu::direct::tile::{self, MAX_ROWS, Tap, TileOutput, TileStore};
use crate::ops::conv::cpu::prefetch::Prefetch;
use crate::ops::conv::cpu::prologue::Prologue;
use rayon::prelude::*;
use std::ops::Range;

/// Operands shared by all tasks of one convolution.
pub(in crate::ops::conv::cpu) struct ConvJob<'a, T> {
    pub(in crate::ops::conv::cpu) plan: &'a ConvPlan,
    pub(in crate::ops::conv::cpu) panels: &'a Panels,
    pub(in crate::ops::conv::cpu) packed: &'a [f32],
    /// Bias, padded to whole registers in each group.
    pub(in crate::ops::conv::cpu) bias: Option<&'a [f32]>,
    pub(in crate::ops::conv::cpu) source: &'a [f32],
    /// Applied to the source while it is copied.
    pub(in crate::ops::conv::cpu) prologue: Option<Prologue<'a>>,
    pub(in crate::ops::conv::cpu) target: SharedPtr<T>,
    /// Use non-temporal stores. The target is aligned and its rows are whole registers.
    pub(in crate::ops::conv::cpu) stream: bool,
}

/// Offsets of a grid pixel in the band's source and in the target, relative to the first pixel.
#[derive(Clone, Copy)]
struct PixelOffsets {
    source: u32,
    target: u32,
}

/// Consecutive pixels with the same list of taps.
struct Segment {
    pixels: Range<usize>,
    taps: Range<usize>,
}

/// Partition of the grid into tasks: `images` whole images each, or `rows` grid rows of one image.
struct BandSplit {
    images: usize,
    rows: usize,
    /// Bands per image, or per group of images.
    bands: usize,
    /// Bands read the source in place, without a copy.
    in_place: bool,
    /// Distance between rows of a band's source, and between its images, in pixels.
    row: usize,
    image: usize,
}

/// Smallest row length for which tiles end at row ends, so that taps on padding rows can be skipped.
const MIN_SEGMENT_WIDTH: usize = 20;

pub(in crate::ops::conv::cpu) fn run<T: TileOutput>(job: &ConvJob<T>) {
    let plan = job.plan;
    let split = BandSplit::of(plan, job.panels.columns * job.panels.groups, job.prologue.is_some());
    let pixels: Vec<Vec<PixelOffsets>> = plan.phases.iter().map(|p| pixels(plan, &split, p)).collect();
    let tasks = plan.n.div_ceil(split.images) * split.bands;
    (0..tasks).into_par_iter().with_max_len(1).for_each(|task| {
        let band = split.band(plan, task);
        let [h, w, c] = plan.source;
        // Neighbouring tasks mostly run consecutively on the same thread.
        let ahead: &[f32] =
            if task + 1 < tasks { &job.source[split.band(plan, task + 1).source(plan)] } else { &[] };
        if split.in_place {
            let source = &job.source[(band.n * h + band.y * plan.step[0]) * w * c..];
            return run_band(job, &split, &pixels, source, ahead, &band);
        }
        let rows = plan.padded(0, band.rows);
        scratch::with(band.images * split.image * c, |copy: &mut [f32]| {
            for i in 0..band.images {
                let image = &job.source[(band.n + i) * h * w * c..][..h * w * c];
                let first = (band.y * plan.step[0]) as isize - plan.pad[0] as isize;
                let out = &mut copy[i * split.image * c..][..rows * split.row * c];
                pad_rows(image, w * c, first, plan.pad[1] * c, split.row * c, job.prologue, out);
            }
            run_band(job, &split, &pixels, copy, ahead, &band);
        });
    });
}

/// Part of the grid computed by one task: images `n..n + images`, rows `y..y + rows`.
struct GridBand {
    n: usize,
    images: usize,
    y: usize,
    rows: usize,
}

impl GridBand {
    /// Source elements read by the band.
    fn source(&self, plan: &ConvPlan) -> Range<usize> {
        let [h, w, c] = plan.source;
        let first = (self.y * plan.step[0]).saturating_sub(plan.pad[0]).min(h);
        let last = (self.y * plan.step[0] + plan.padded(0, self.rows)).saturating_sub(plan.pad[0]).min(h);
        (self.n * h + first) * w * c..((self.n + self.images - 1) * h + last) * w * c
    }
}

impl BandSplit {
    /// Band of task `task`.
    fn band(&self, plan: &ConvPlan, task: usize) -> GridBand {
        let (n, y) = (task / self.bands * self.images, task % self.bands * self.rows);
        GridBand { n, y, images: self.images.min(plan.n - n), rows: self.rows.min(plan.grid[0] - y) }
    }

    /// Bands are read in place where possible, unless it `copies`. About 224 pixels per band: fewer where their source would exceed the cache or the total is small, more where a pixel is
    /// cheap.
    fn of(plan: &ConvPlan, columns: usize, copies: bool) -> BandSplit {
        let bytes = plan.source[2] * plan.step[0] * plan.step[1] * size_of::<f32>();
        let cheap = (1 << 19) / (plan.reduction() * columns).max(1);
        let plane = plan.grid[0] * plan.grid[1];
        // At least sixteen bands where that leaves a few tiles each: fewer cannot be balanced over threads.
        let balanced = (plan.n * plane).div_ceil(16).next_multiple_of(12).max(48);
        let target = cheap.clamp(224, 2048).min((400 << 10) / bytes).max(96).min(balanced);
        let (images, rows) = if plane >= target {
            (1, (target / plan.grid[1]).max(1))
        } else {
            ((target / plane).clamp(1, plan.n), plan.grid[0])
        };
        let bands = plan.grid[0].div_ceil(rows);
        if plan.in_place() && !copies {
            let [h, w, _] = plan.source;
            return BandSplit { images, rows, bands, in_place: true, row: w, image: h * w };
        }
        let row = plan.padded(1, plan.grid[1]);
        BandSplit { images, rows, bands, in_place: false, row, image: plan.padded(0, rows) * row }
    }
}

/// Pixel offsets of a full task. Smaller tasks use a prefix.
fn pixels(plan: &ConvPlan, split: &BandSplit, phase: &Phase) -> Vec<PixelOffsets> {
    let [height, width] = plan.extent(phase);
    let narrow = |offset: usize| u32::try_from(offset).expect("a band holds fewer than 2^32 elements");
    let mut pixels = Vec::with_capacity(split.images * split.rows * width);
    for i in 0..split.images {
        for y in 0..split.rows.min(height) {
            for x in 0..width {
                let source = i * split.image + y * plan.step[0] * split.row + x * plan.step[1];
                let row = (i * plan.target[0] + y * plan.spread[0]) * plan.target[1];
                pixels.push(PixelOffsets {
                    source: narrow(source * plan.source[2]),
                    target: narrow((row + x * plan.spread[1]) * plan.target[2]),
                });
            }
        }
    }
    pixels
}

/// Copies rows `first..` of an image with `pitch` elements per row to rows of `out_pitch` elements, shifted by `left` elements and
/// zero-padded outside the image. Applies the prologue to the copied pixels.
pub(in crate::ops::conv::cpu) fn pad_rows(
    image: &[f32],
    pitch: usize,
    first: isize,
    left: usize,
    out_pitch: usize,
    prologue: Option<Prologue>,
    out: &mut [f32],
) {
    let left = left.min(out_pitch);
    let copied = pitch.min(out_pitch - left);
    let rows = image.len() / pitch;
    for (r, out) in out.chunks_exact_mut(out_pitch).enumerate() {
        match usize::try_from(first + r as isize) {
            Ok(y) if y < rows => {
                out[..left].fill(0.0);
                let (row, copy) = (&image[y * pitch..][..copied], &mut out[left..left + copied]);
                match prologue {
                    Some(prologue) => prologue.apply(row, copy),
                    None => copy.copy_from_slice(row),
                }
                out[left + copied..].fill(0.0);
            }
            _ => out.fill(0.0),
        }
    }
}

/// Computes all phases and column blocks of one band, and prefetches `ahead`, the source of the next band.
fn run_band<T: TileOutput>(
    job: &ConvJob<T>,
    split: &BandSplit,
    pixels: &[Vec<PixelOffsets>],
    source: &[f32],
    ahead: &[f32],
    band: &GridBand,
) {
    let plan = job.plan;
    let &GridBand { n: n0, images, y: y0, rows } = band;
    let tiles: usize = job.panels.blocks.iter().map(|b| pixels[0].len() / job.panels.tile_rows(b)).sum();
    let (mut from, mut to) = ([std::ptr::null(); MAX_ROWS], [std::ptr::null_mut(); MAX_ROWS]);
    let mut ahead = Prefetch::new([ahead, &[]], tiles * plan.phases.len());
    for (phase, pixels) in plan.phases.iter().zip(pixels) {
        let [height, width] = plan.extent(phase);
        // A last task with fewer rows has one image; one with fewer images has whole images.
        let count = images * rows.min(height.saturating_sub(y0)) * width;
        let mut taps = Vec::with_capacity(phase.taps.len());
        let segments = segments(plan, split, phase, y0, count, width, &mut taps);
        let oy = y0 * plan.spread[0] + phase.origin[0];
        let target =
            job.target.at(((n0 * plan.target[0] + oy) * plan.target[1] + phase.origin[1]) * plan.target[2]);
        for block in &job.panels.blocks {
            let (column, columns) = job.panels.range(block);
            let x = source.as_ptr().wrapping_add(block.group * plan.depth);
            let y = target.wrapping_add(block.group * job.panels.columns + column);
            let panel = job.packed[job.panels.start(block)..].as_ptr();
            let bias = job.bias_of(block.group, column);
            let store = TileStore::outputs(columns, job.stream);
            let most = job.panels.tile_rows(block);
            for segment in &segments {
                let (start, m) = (segment.pixels.start, segment.pixels.len());
                let tiles = m.div_ceil(most);
                for t in 0..tiles {
                    ahead.advance();
                    let tile = &pixels[start + t * m / tiles..start + (t + 1) * m / tiles];
                    for (j, pixel) in tile.iter().enumerate() {
                        from[j] = x.wrapping_add(pixel.source as usize);
                        to[j] = y.wrapping_add(pixel.target as usize);
                    }
                    // SAFETY: pixels lie in the band, and the segment's taps read only source rows that exist in
                    // it; each task owns its target rows; the panel has the block's width.
                    unsafe {
                        let (from, to) = (from.as_ptr(), to.as_ptr());
                        let taps = &taps[segment.taps.clone()];
                        let level = job.panels.level;
                        tile::run(level, tile.len(), block.registers, from, taps, panel, bias, to, store);
                    }
                }
            }
        }
    }
    if job.stream {
        // SAFETY: the CPU supports the level.
        unsafe { tile::fence(job.panels.level) };
    }
}

impl<T> ConvJob<'_, T> {
    /// Pointer to the bias of a column block, or null.
    pub(in crate::ops::conv::cpu) fn bias_of(&self, group: usize, column: usize) -> *const f32 {
        let padded = self.panels.registers * self.panels.level.lanes();
        self.bias.map_or(std::ptr::null(), |b| b[group * padded + column..].as_ptr())
    }
}

/// Splits the pixels of a band into segments, and appends the runs of taps they use to `taps`.
///
/// Neighbouring rows with the same taps outside the source form a segment. Narrow rows form a single segment, whose tiles cross
/// row ends and read the zeros of the padding.
fn segments(
    plan: &ConvPlan,
    split: &BandSplit,
    phase: &Phase,
    y0: usize,
    count: usize,
    width: usize,
    taps: &mut Vec<Tap>,
) -> Vec<Segment> {
    let c = plan.source[2];
    let mut add = |from: usize, to: usize| {
        let first = taps.len();
        let mut run = Vec::with_capacity(to - from);
        for tap in &phase.taps[from..to] {
            append(
                &mut run,
                Tap { offset: (tap.dy * split.row + tap.dx) * c, row: tap.row, len: plan.depth },
            );
        }
        taps.extend(run);
        first..taps.len()
    };
    if split.in_place || split.images > 1 || width < MIN_SEGMENT_WIDTH {
        return vec![Segment { pixels: 0..count, taps: add(0, phase.taps.len()) }];
    }
    let mut segments: Vec<Segment> = Vec::new();
    let mut last = None;
    for y in 0..count / width {
        // Taps are sorted by row, ascending or descending, so the taps inside the source are contiguous.
        let inside = |tap: &TapPosition| {
            let row = (y0 + y) * plan.step[0] + tap.dy;
            row >= plan.pad[0] && row - plan.pad[0] < plan.source[0]
        };
        let from = phase.taps.iter().position(inside).unwrap_or(0);
        let to = phase.taps.iter().rposition(inside).map_or(from, |i| i + 1);
        match segments.last_mut() {
            Some(segment) if last == Some((from, to)) => segment.pixels.end += width,
            _ => segments.push(Segment { pixels: y * width..(y + 1) * width, taps: add(from, to) }),
        }
        last = Some((from, to));
    }
    segments
}
