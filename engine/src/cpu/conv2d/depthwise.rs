//! Depthwise convolution in f32, forward and data gradient: a plan whose taps are single channels, vectorised over
//! the channels. The source is read in place; pixels near the border have fewer taps.
use super::Shared;
use super::dense;
use super::groups::Groups;
use super::plan::{Phase, Plan};
use crate::conv_shape::ConvShape;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Level, simd_kernel};
use rayon::prelude::*;
use std::ops::Range;

/// Most pixels that are computed together.
const PIXELS: usize = 8;
/// Multiply-adds from which on a band of rows is worth a task.
const TASK: usize = 1 << 18;
/// Each channel by itself.
const SINGLE: Groups = Groups { count: 1, merged: 1, inputs: 1, outputs: 1 };

pub(super) fn forward(s: &ConvShape, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    run(&Plan::forward(s, &SINGLE), x, weight, bias, y);
}

pub(super) fn data_gradient(s: &ConvShape, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
    run(&Plan::data_gradient(s, &SINGLE), dy, weight, None, dx);
}

/// One tap of a pixel: the source element and the weights of the first channel.
#[derive(Clone, Copy)]
struct Tap {
    source: usize,
    weight: usize,
}

simd_kernel! {
    /// `y[j][..] = bias[..] + sum over taps of x[j * x_pixel + source ..] * weights[weight ..]` for `P` pixels and
    /// all channels.
    ///
    /// # Safety
    /// Taps must lie in the source for every pixel; `weights` and `bias` (or null) hold `channels` a tap.
    fn pixels<S at level, const P: usize>(
        x: *const f32,
        x_pixel: usize,
        taps: &[Tap],
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
            let mut c = 0;
            while c + S::LANES <= channels {
                let start = if bias.is_null() { S::splat(0.0) } else { S::load(bias.add(c)) };
                let mut acc = [start; P];
                for tap in taps {
                    let w = S::load(weights.add(tap.weight + c));
                    for j in 0..P {
                        acc[j] = S::fma(S::load(from[j].wrapping_add(tap.source + c)), w, acc[j]);
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
                    let w = S::load_first(weights.add(tap.weight + c), left);
                    for j in 0..P {
                        let v = S::load_first(from[j].wrapping_add(tap.source + c), left);
                        acc[j] = S::fma(v, w, acc[j]);
                    }
                }
                for j in 0..P {
                    S::store_first(y.add(j * y_pixel + c), left, acc[j]);
                }
            }
        }
    }
}

/// Grid columns of a phase that share their taps (numbers into the phase's list).
struct Columns {
    range: Range<usize>,
    taps: Vec<usize>,
}

fn run(plan: &Plan, source: &[f32], weight: &[f32], bias: Option<&[f32]>, target: &mut [f32]) {
    if target.is_empty() {
        return;
    }
    let level = simd::level();
    let [_, width, channels] = plan.target;
    let taps = weight.len() / channels;
    let row = width.div_ceil(plan.spread[1]) * plan.reduction().max(1) * channels;
    let rows = TASK.div_ceil(row).clamp(4, plan.grid[0].max(4));
    let bands = plan.grid[0].div_ceil(rows);
    let columns: Vec<Vec<Columns>> = plan.phases.iter().map(|p| columns(plan, p)).collect();
    let stream = dense::streams(level, channels, target);
    let target = Shared(target.as_mut_ptr());
    scratch::with(weight.len(), |packed: &mut [f32]| {
        transpose(weight, taps, packed);
        let bias = bias.map_or(Shared(std::ptr::null_mut()), |b| Shared(b.as_ptr().cast_mut()));
        let packed = &*packed;
        (0..plan.n * bands).into_par_iter().with_max_len(1).for_each(|task| {
            let (n, y0) = (task / bands, task % bands * rows);
            let image = &source[n * plan.source.iter().product::<usize>()..];
            for (phase, columns) in plan.phases.iter().zip(&columns) {
                let end = (y0 + rows).min(plan.extent(phase)[0]);
                band(plan, phase, columns, level, n, y0..end, image, packed, bias.at(0), target, stream);
            }
            if stream {
                // SAFETY: the level is one that the processor has.
                unsafe { super::tile::fence(level) };
            }
        });
    });
}

/// `[channel][tap]` to `[tap][channel]`.
fn transpose(weight: &[f32], taps: usize, out: &mut [f32]) {
    let channels = weight.len() / taps;
    for (c, row) in weight.chunks_exact(taps).enumerate() {
        for (t, w) in row.iter().enumerate() {
            out[t * channels + c] = *w;
        }
    }
}

/// Cuts the grid columns of a phase where the set of taps inside the source changes.
fn columns(plan: &Plan, phase: &Phase) -> Vec<Columns> {
    let mut columns: Vec<Columns> = Vec::new();
    for x in 0..plan.extent(phase)[1] {
        let inside = |t: &usize| {
            let column = x * plan.step[1] + phase.taps[*t].dx;
            column >= plan.pad[1] && column - plan.pad[1] < plan.source[1]
        };
        let taps: Vec<usize> = (0..phase.taps.len()).filter(inside).collect();
        match columns.last_mut() {
            Some(last) if last.taps == taps => last.range.end += 1,
            _ => columns.push(Columns { range: x..x + 1, taps }),
        }
    }
    columns
}

/// Grid rows `rows` of one phase of image `n`.
fn band(
    plan: &Plan,
    phase: &Phase,
    columns: &[Columns],
    level: Level,
    n: usize,
    rows: Range<usize>,
    image: &[f32],
    weights: &[f32],
    bias: *const f32,
    target: Shared<f32>,
    stream: bool,
) {
    let [height, width, channels] = plan.source;
    let mut taps: Vec<Tap> = Vec::with_capacity(phase.taps.len());
    for gy in rows {
        // The row above which the taps' offsets count; it and its first columns may lie outside the image.
        let top = (gy * plan.step[0]) as isize - plan.pad[0] as isize;
        let base =
            image.as_ptr().wrapping_offset((top * width as isize - plan.pad[1] as isize) * channels as isize);
        let oy = gy * plan.spread[0] + phase.origin[0];
        for part in columns {
            taps.clear();
            for tap in part.taps.iter().map(|t| &phase.taps[*t]) {
                if (0..height as isize).contains(&(top + tap.dy as isize)) {
                    let source = (tap.dy * width + tap.dx) * channels;
                    taps.push(Tap { source, weight: tap.row * channels });
                }
            }
            let (m, tiles) = (part.range.len(), part.range.len().div_ceil(PIXELS));
            for t in 0..tiles {
                let (a, b) = (part.range.start + t * m / tiles, part.range.start + (t + 1) * m / tiles);
                let x = base.wrapping_add(a * plan.step[1] * channels);
                let ox = a * plan.spread[1] + phase.origin[1];
                let y = target.at(((n * plan.target[0] + oy) * plan.target[1] + ox) * channels);
                let (x_pixel, y_pixel) = (plan.step[1] * channels, plan.spread[1] * channels);
                let weights = weights.as_ptr();
                macro_rules! of {
                    ($($p:literal)*) => {
                        match b - a {
                            // SAFETY: every tap lies inside the image for all pixels of the part, and the task owns
                            // the target rows.
                            $($p => unsafe {
                                pixels::<$p>(level, x, x_pixel, &taps, weights, bias, y, y_pixel, channels, stream)
                            },)*
                            other => unreachable!("no kernel for {other} pixels"),
                        }
                    };
                }
                of!(1 2 3 4 5 6 7 8);
            }
        }
    }
}
