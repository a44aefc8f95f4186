//! Depthwise convolution, and grouped convolution with 2, 4 or 8 channels per group, in f32: forward pass and data gradient. f16 and bf16
//! are widened to copies in the L2 cache. The
//! plan's taps are single channels, vectorised over all channels; the other channels of a group are read from neighbouring lanes.
//! The source is read in place, or from a copy in the L2 cache to which a prologue was applied; pixels near the border have fewer taps.
pub(in crate::ops::conv::cpu) mod weight;

use crate::conv_shape::ConvShape;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Level, simd_kernel};
use crate::cpu::stored::Stored;
use crate::dtype::as_f32;
use crate::ops::conv::cpu::direct::dense;
use crate::ops::conv::cpu::direct::plan::{ConvPlan, Phase};
use crate::ops::conv::cpu::groups::Groups;
use crate::ops::conv::cpu::prefetch::{Prefetch, exceeds_cache};
use crate::ops::conv::cpu::{ConvInput, SharedPtr};
use rayon::prelude::*;
use std::ops::Range;

/// Fewest multiply-adds of a task.
const MIN_TASK_MACS: usize = 1 << 18;
/// Groups of a single channel.
const SINGLE: Groups = Groups { count: 1, merged: 1, inputs: 1, outputs: 1 };

/// Most channels per group.
const MAX_GROUP_WIDTH: usize = 8;

/// Most pixels computed together: as many as leave registers for the weights and lane indices of a group.
fn max_pixels(level: Level, width: usize) -> usize {
    if level == Level::Neon && width > 1 { 4 } else { 8 }
}

/// True for groups of 1, 2, 4 or 8 input channels with as many output channels.
pub(in crate::ops::conv::cpu) fn supports(s: &ConvShape) -> bool {
    let g = s.group_in();
    s.groups > 1 && g == s.group_out() && g <= MAX_GROUP_WIDTH && g.is_power_of_two()
}

pub(in crate::ops::conv::cpu) fn forward<T: Stored<Compute = f32>>(
    s: &ConvShape,
    x: ConvInput<T>,
    weight: &[T],
    bias: Option<&[f32]>,
    y: &mut [T],
) {
    // The weight of output channel `o` and input channel `i` of its group goes to row `i`, column `o`.
    run(&ConvPlan::forward(s, &SINGLE), s.group_in(), x, weight, bias, y, |o, i| (i, o));
}

pub(in crate::ops::conv::cpu) fn data_gradient<T: Stored<Compute = f32>>(
    s: &ConvShape,
    dy: &[T],
    weight: &[T],
    dx: &mut [T],
) {
    let g = s.group_in();
    // Transposed: the row is the index of the output channel in its group.
    let dy = ConvInput::plain(dy);
    run(&ConvPlan::data_gradient(s, &SINGLE), g, dy, weight, None, dx, |o, i| (o % g, o / g * g + i));
}

/// `LANES[log2 g][i]`: for each lane, the index of lane `i` of its group of `g` lanes.
pub(in crate::ops::conv::cpu) static LANES: [[[i32; 16]; MAX_GROUP_WIDTH]; 4] = {
    let mut lanes = [[[0; 16]; MAX_GROUP_WIDTH]; 4];
    let mut n = 0;
    while n < 4 * MAX_GROUP_WIDTH * 16 {
        let (log, i, l) = (n / (MAX_GROUP_WIDTH * 16), n / 16 % MAX_GROUP_WIDTH, n % 16);
        lanes[log][i][l] = ((l >> log << log) + i % (1 << log)) as i32;
        n += 1;
    }
    lanes
};

/// Offsets of one tap in the source and in the weights, for the first channel.
#[derive(Clone, Copy)]
struct DepthwiseTap {
    source: usize,
    weight: usize,
}

simd_kernel! {
    /// `y[j][c] = bias[c] + sum over taps and i < G of x[j * x_pixel + source + channel i of c's group] *
    /// weights[weight + i * channels + c]` for `P` pixels and all channels.
    ///
    /// # Safety
    /// Taps must lie in the source for every pixel. `weights` holds `G * channels` elements per tap; `bias` holds `channels` or is null.
    fn pixels<S at level, const P: usize, const G: usize>(
        x: *const f32,
        x_pixel: usize,
        taps: &[DepthwiseTap],
        weights: *const f32,
        bias: *const f32,
        y: *mut f32,
        y_pixel: usize,
        channels: usize,
        stream: bool,
    ) {
        unsafe {
            let mut from = [x; P];
            for j in 0..P {
                from[j] = x.wrapping_add(j * x_pixel);
            }
            let lanes = &LANES[G.trailing_zeros() as usize];
            let mut c = 0;
            while c + S::LANES <= channels {
                let start = if bias.is_null() { S::splat(0.0) } else { S::load(bias.add(c)) };
                let mut acc = [start; P];
                for tap in taps {
                    let mut w = [S::splat(0.0); G];
                    for i in 0..G {
                        w[i] = S::load(weights.add(tap.weight + i * channels + c));
                    }
                    for j in 0..P {
                        let v = S::load(from[j].wrapping_add(tap.source + c));
                        for i in 0..G {
                            let v = if G == 1 { v } else { S::permute(v, lanes[i].as_ptr()) };
                            acc[j] = S::fma(v, w[i], acc[j]);
                        }
                    }
                }
                for j in 0..P {
                    let to = y.add(j * y_pixel + c);
                    if stream { S::stream(to, acc[j]) } else { S::store(to, acc[j]) }
                }
                c += S::LANES;
            }
            let left = channels - c;
            if left > 0 {
                let start = if bias.is_null() { S::splat(0.0) } else { S::load_first(bias.add(c), left) };
                let mut acc = [start; P];
                for tap in taps {
                    for i in 0..G {
                        let w = S::load_first(weights.add(tap.weight + i * channels + c), left);
                        for j in 0..P {
                            let v = S::load_first(from[j].wrapping_add(tap.source + c), left);
                            let v = if G == 1 { v } else { S::permute(v, lanes[i].as_ptr()) };
                            acc[j] = S::fma(v, w, acc[j]);
                        }
                    }
                }
                for j in 0..P {
                    S::store_first(y.add(j * y_pixel + c), left, acc[j]);
                }
            }
        }
    }
}

/// Operands shared by all bands of one convolution.
struct DepthwiseJob<'a, T> {
    plan: &'a ConvPlan,
    level: Level,
    /// Channels per group.
    width: usize,
    source: ConvInput<'a, T>,
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    target: SharedPtr<T>,
    stream: bool,
    /// The source is too large for the cache.
    prefetches: bool,
}

/// Grid columns of a phase with the same taps, as indices into the phase's list.
struct ColumnRange {
    range: Range<usize>,
    taps: Vec<usize>,
}

fn run<T: Stored<Compute = f32>>(
    plan: &ConvPlan,
    width: usize,
    source: ConvInput<T>,
    weight: &[T],
    bias: Option<&[f32]>,
    target: &mut [T],
    position: impl Fn(usize, usize) -> (usize, usize),
) {
    if target.is_empty() {
        return;
    }
    let level = simd::level();
    let channels = plan.target[2];
    let row = plan.grid[1] * plan.reduction().max(1) * width * channels;
    let rows = MIN_TASK_MACS.div_ceil(row).clamp(4, plan.grid[0].max(4));
    let bands = plan.grid[0].div_ceil(rows);
    let columns: Vec<Vec<ColumnRange>> = plan.phases.iter().map(|p| columns(plan, p)).collect();
    let stream = as_f32(target).is_some_and(|target| dense::use_streaming(level, channels, target));
    let prefetches = !source.needs_copy() && as_f32(source.x).is_some_and(exceeds_cache);
    let target = SharedPtr(target.as_mut_ptr());
    scratch::with(weight.len(), |weights: &mut [f32]| {
        // `[o][tap][i]` to `[tap][row][column]`.
        let taps = weight.len() / (channels * width);
        for (o, channel_weights) in weight.chunks_exact(taps * width).enumerate() {
            for i in 0..width {
                let (row, column) = position(o, i);
                for tap in 0..taps {
                    weights[(tap * width + row) * channels + column] =
                        channel_weights[tap * width + i].to_f64() as f32;
                }
            }
        }
        let job = DepthwiseJob { plan, level, width, source, weights, bias, target, stream, prefetches };
        (0..plan.n * bands).into_par_iter().with_max_len(1).for_each(|task| {
            let (n, y0) = (task / bands, task % bands * rows);
            let grid_rows = y0..(y0 + rows).min(plan.grid[0]);
            job.with_source(n, grid_rows.clone(), |image, first| {
                job.with_target(n, grid_rows, |target| {
                    for (phase, columns) in plan.phases.iter().zip(&columns) {
                        let end = (y0 + rows).min(plan.extent(phase)[0]);
                        band(&job, phase, columns, y0..end, (image, first), target);
                    }
                });
            });
            if stream {
                // SAFETY: the CPU supports the level.
                unsafe { crate::ops::conv::cpu::direct::tile::fence(level) };
            }
        });
    });
}

impl<T: Stored<Compute = f32>> DepthwiseJob<'_, T> {
    /// Calls `f` with the rows of image `n` that the grid rows read, from the first one on, and the index of the first one. Copies them
    /// where that is needed.
    fn with_source(&self, n: usize, rows: Range<usize>, f: impl FnOnce(&[f32], usize)) {
        let [height, width, channels] = self.plan.source;
        let pitch = width * channels;
        let image = n * height * pitch;
        if let (Some(x), false) = (as_f32(self.source.x), self.source.needs_copy()) {
            return f(&x[image..][..height * pitch], 0);
        }
        let row = |row: usize| row.saturating_sub(self.plan.pad[0]).min(height);
        let first = row(rows.start * self.plan.step[0]);
        let end = row((rows.end - 1) * self.plan.step[0] + self.plan.span[0]).max(first);
        scratch::with((end - first) * pitch, |copy: &mut [f32]| {
            self.source.copy(image + first * pitch..image + end * pitch, copy);
            f(copy, first);
        });
    }

    /// Calls `f` with the first element of image `n` of the target in f32, of which only the target rows of the grid rows can be
    /// written, and must be.
    fn with_target(&self, n: usize, rows: Range<usize>, f: impl FnOnce(*mut f32)) {
        let [height, width, channels] = self.plan.target;
        let (pitch, spread) = (width * channels, self.plan.spread[0]);
        let (first, end) = ((rows.start * spread).min(height), (rows.end * spread).min(height));
        let start = (n * height + first) * pitch;
        // SAFETY: tasks have different grid rows, and so different target rows.
        let to = unsafe { std::slice::from_raw_parts_mut(self.target.at(start), (end - first) * pitch) };
        T::store(to, |to| f(to.as_mut_ptr().wrapping_sub(first * pitch)));
    }
}

/// Splits the grid columns of a phase where the set of taps inside the source changes.
fn columns(plan: &ConvPlan, phase: &Phase) -> Vec<ColumnRange> {
    let mut columns: Vec<ColumnRange> = Vec::new();
    for x in 0..plan.extent(phase)[1] {
        let inside = |t: &usize| {
            let column = x * plan.step[1] + phase.taps[*t].dx;
            column >= plan.pad[1] && column - plan.pad[1] < plan.source[1]
        };
        let taps: Vec<usize> = (0..phase.taps.len()).filter(inside).collect();
        match columns.last_mut() {
            Some(last) if last.taps == taps => last.range.end += 1,
            _ => columns.push(ColumnRange { range: x..x + 1, taps }),
        }
    }
    columns
}

/// Computes grid rows `rows` of one phase of an image from the rows of its source from `first` on. `target` is the image's first element.
fn band<T: Stored<Compute = f32>>(
    job: &DepthwiseJob<T>,
    phase: &Phase,
    columns: &[ColumnRange],
    rows: Range<usize>,
    (source, first): (&[f32], usize),
    target: *mut f32,
) {
    let plan = job.plan;
    let [height, width, channels] = plan.source;
    let mut taps: Vec<DepthwiseTap> = Vec::with_capacity(phase.taps.len());
    let most = max_pixels(job.level, job.width);
    let tiles: usize = columns.iter().map(|c| c.range.len().div_ceil(most)).sum();
    for gy in rows {
        // Source row of tap offset 0. It and its first columns may lie outside the image.
        let top = (gy * plan.step[0]) as isize - plan.pad[0] as isize;
        let start = ((top - first as isize) * width as isize - plan.pad[1] as isize) * channels as isize;
        let base = source.as_ptr().wrapping_offset(start);
        let oy = gy * plan.spread[0] + phase.origin[0];
        // First source row that grid row `gy` does not read.
        let new = |gy: usize| (gy * plan.step[0] + plan.span[0]).saturating_sub(plan.pad[0]).min(height);
        let next: &[f32] = if job.prefetches {
            &source[new(gy) * width * channels..new(gy + 1) * width * channels]
        } else {
            &[]
        };
        let mut ahead = Prefetch::new([next, &[]], tiles);
        for part in columns {
            taps.clear();
            for tap in part.taps.iter().map(|t| &phase.taps[*t]) {
                if (0..height as isize).contains(&(top + tap.dy as isize)) {
                    let source = (tap.dy * width + tap.dx) * channels;
                    taps.push(DepthwiseTap { source, weight: tap.row * job.width * channels });
                }
            }
            let (m, tiles) = (part.range.len(), part.range.len().div_ceil(most));
            for t in 0..tiles {
                ahead.advance();
                let (a, b) = (part.range.start + t * m / tiles, part.range.start + (t + 1) * m / tiles);
                let x = base.wrapping_add(a * plan.step[1] * channels);
                let ox = a * plan.spread[1] + phase.origin[1];
                let y = target.wrapping_add((oy * plan.target[1] + ox) * channels);
                // SAFETY: every tap lies inside the source for all pixels of this column range, and the task owns
                // its target rows.
                unsafe { tile(job, b - a, x, &taps, y) };
            }
        }
    }
}

/// Runs the kernel for `m` pixels.
///
/// # Safety
/// The conditions of [`pixels`].
unsafe fn tile<T: Stored<Compute = f32>>(
    job: &DepthwiseJob<T>,
    m: usize,
    x: *const f32,
    taps: &[DepthwiseTap],
    y: *mut f32,
) {
    let (plan, level, weights, stream) = (job.plan, job.level, job.weights.as_ptr(), job.stream);
    let channels = plan.target[2];
    let bias = job.bias.map_or(std::ptr::null(), |b| b.as_ptr());
    let (x_pixel, y_pixel) = (plan.step[1] * channels, plan.spread[1] * channels);
    macro_rules! of {
        ($g:literal: $($p:literal)*) => {
            match m {
                $($p => pixels::<$p, $g>(level, x, x_pixel, taps, weights, bias, y, y_pixel, channels, stream),)*
                _ => unreachable!("no kernel for {m} pixels"),
            }
        };
    }
    match job.width {
        1 => of!(1: 1 2 3 4 5 6 7 8),
        2 => of!(2: 1 2 3 4 5 6 7 8),
        4 => of!(4: 1 2 3 4 5 6 7 8),
        8 => of!(8: 1 2 3 4 5 6 7 8),
        _ => unreachable!("no kernel for groups of {} channels", job.width),
    }
}
