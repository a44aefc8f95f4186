//! Weight gradient of depthwise convolution, and of grouped convolution with 2, 4 or 8 channels per group, in f32. The sums of a few
//! neighbouring taps stay in registers, one register of output channels at a time, while `dy` and `x` are streamed.
use crate::conv_shape::ConvShape;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Level, Simd, prefetch, simd_kernel};
use crate::cpu::stored::Stored;
use crate::dtype::as_f32;
use crate::ops::conv::cpu::depthwise::LANES;
use crate::ops::conv::cpu::prefetch::{Prefetch, PrefetchCursor, exceeds_cache};
use crate::ops::conv::cpu::{ConvInput, SharedPtr};
use rayon::prelude::*;
use std::ops::Range;

/// Pixels summed per kernel call: enough to pay for reading and writing the sums, few enough for the L1 cache.
const PIXELS: usize = 56;
/// Number of partial sums over the batch, each over consecutive rows.
const CHUNKS: usize = 32;
/// Bytes of a copy of the source in f32, to which a prologue may be applied: it stays in the L2 cache.
const COPY_BYTES: usize = 256 << 10;

/// Valid positions along one axis: for each tap, the outputs whose input lies inside the image.
struct ValidRanges {
    valid: Vec<Range<usize>>,
}

/// Rectangle of output pixels and rectangle of taps whose inputs all lie inside the image.
struct Patch {
    rows: Range<usize>,
    columns: Range<usize>,
    ky: Range<usize>,
    kx: Range<usize>,
}

/// Rows of `x` or `dy`, counted over the whole batch, from `first` on.
#[derive(Clone, Copy)]
struct SourceRows<'a> {
    elements: &'a [f32],
    first: usize,
}

/// Sums of [`taps`] over full registers (`FULL`) or `lanes` channels, from `x` and `dy` on.
///
/// # Safety
/// The conditions of [`taps`], inside a function that enables the instruction set.
#[inline(always)]
unsafe fn accumulate<S: Simd, const R: usize, const K: usize, const G: usize, const FULL: bool>(
    x: *const f32,
    x_steps: [usize; 2],
    tap_steps: [usize; 2],
    dy: *const f32,
    dy_row: usize,
    size: [usize; 2],
    channels: usize,
    lanes: usize,
    ahead: &mut Option<[PrefetchCursor; 3]>,
) -> [[[S::V; G]; K]; R] {
    let neighbours = &LANES[G.trailing_zeros() as usize];
    let prefetches = ahead.is_some();
    let [mut a0, mut a1, mut a2] = ahead.unwrap_or([PrefetchCursor { ptr: x, step: 0 }; 3]);
    let mut acc = [[[S::splat(0.0); G]; K]; R];
    for oy in 0..size[0] {
        let mut d = dy.add(oy * dy_row);
        let mut p = x.add(oy * x_steps[0]);
        for _ in 0..size[1] {
            if prefetches {
                prefetch(a0.ptr);
                prefetch(a1.ptr);
                prefetch(a2.ptr);
                a0.ptr = a0.ptr.wrapping_add(a0.step);
                a1.ptr = a1.ptr.wrapping_add(a1.step);
                a2.ptr = a2.ptr.wrapping_add(a2.step);
            }
            let g = if FULL { S::load(d) } else { S::load_first(d, lanes) };
            for r in 0..R {
                for k in 0..K {
                    let tap = p.add(r * tap_steps[0] + k * tap_steps[1]);
                    let v = if FULL { S::load(tap) } else { S::load_first(tap, lanes) };
                    for i in 0..G {
                        let v = if G == 1 { v } else { S::permute(v, neighbours[i].as_ptr()) };
                        acc[r][k][i] = S::fma(v, g, acc[r][k][i]);
                    }
                }
            }
            d = d.wrapping_add(channels);
            p = p.wrapping_add(x_steps[1]);
        }
    }
    if prefetches {
        *ahead = Some([a0, a1, a2]);
    }
    acc
}

simd_kernel! {
    /// `sum[((r*kw + k) * G + i) * channels + c] += sum over pixels of dy[c] * x[r * tap_row + k * tap_pixel + channel i
    /// of c's group]` for `R` by `K` taps and `i < G`. Prefetches along `ahead`.
    ///
    /// # Safety
    /// All pixels and taps must lie inside the three arrays.
    fn taps<S at level, const R: usize, const K: usize, const G: usize>(
        x: *const f32,
        x_steps: [usize; 2],
        tap_steps: [usize; 2],
        dy: *const f32,
        dy_row: usize,
        size: [usize; 2],
        channels: usize,
        sum: *mut f32,
        kw: usize,
        ahead: Option<[PrefetchCursor; 3]>,
    ) {
        unsafe {
            let mut ahead = ahead;
            let mut c = 0;
            while c < channels {
                let lanes = if channels - c < S::LANES { channels - c } else { S::LANES };
                let (x, dy) = (x.add(c), dy.add(c));
                let acc = if lanes == S::LANES {
                    accumulate::<S, R, K, G, true>(
                        x, x_steps, tap_steps, dy, dy_row, size, channels, lanes, &mut ahead,
                    )
                } else {
                    accumulate::<S, R, K, G, false>(
                        x, x_steps, tap_steps, dy, dy_row, size, channels, lanes, &mut ahead,
                    )
                };
                for r in 0..R {
                    for k in 0..K {
                        for i in 0..G {
                            let to = sum.add(((r * kw + k) * G + i) * channels + c);
                            S::store_first(to, lanes, S::add(S::load_first(to, lanes), acc[r][k][i]));
                        }
                    }
                }
                c += S::LANES;
            }
        }
    }
}

/// Weight gradient from the input and `dy`. `dw` is overwritten.
pub(in crate::ops::conv::cpu) fn gradient<T: Stored<Compute = f32>>(
    s: &ConvShape,
    input: ConvInput<T>,
    dy: &[T],
    dw: &mut [f32],
) {
    let (taps, width) = (s.kernel[0] * s.kernel[1], s.group_in());
    let (channels, size) = (s.c_in, dw.len());
    let rows = s.n * s.out_h();
    let chunks = CHUNKS.min(rows).max(1);
    let job = DepthwiseWeightJob::of(s, input, dy);
    scratch::with(chunks * size, |partial: &mut [f32]| {
        let shared = SharedPtr(partial.as_mut_ptr());
        (0..chunks).into_par_iter().with_max_len(1).for_each(|chunk| {
            // SAFETY: each chunk has its own part of the buffer.
            let sum = unsafe { std::slice::from_raw_parts_mut(shared.at(chunk * size), size) };
            sum.fill(0.0);
            job.accumulate(chunk * rows / chunks..(chunk + 1) * rows / chunks, sum);
        });
        // Partial sums, in order, then `[tap][i][o]` to `[o][tap][i]`.
        let (total, others) = partial.split_at_mut(size);
        for sum in others.chunks_exact(size) {
            total.iter_mut().zip(sum).for_each(|(a, b)| *a += *b);
        }
        for (o, channel_dw) in dw.chunks_exact_mut(taps * width).enumerate() {
            for (row, dw) in channel_dw.iter_mut().enumerate() {
                *dw = total[row * channels + o];
            }
        }
    });
}

/// Operands shared by all chunks of one weight gradient.
struct DepthwiseWeightJob<'a, T> {
    s: &'a ConvShape,
    level: Level,
    input: ConvInput<'a, T>,
    dy: &'a [T],
    down: ValidRanges,
    /// Patches of a row.
    across: Vec<(Range<usize>, Range<usize>)>,
    /// Output rows per kernel call.
    step: usize,
    /// Rows of the copy of the input: as many as a step reads, and more if they are short. 0 without a copy.
    copy_rows: usize,
}

impl<'a, T: Stored<Compute = f32>> DepthwiseWeightJob<'a, T> {
    fn of(s: &'a ConvShape, input: ConvInput<'a, T>, dy: &'a [T]) -> DepthwiseWeightJob<'a, T> {
        let level = simd::level();
        let (down, across) = (ValidRanges::of(s, 0, s.out_h()), ValidRanges::of(s, 1, s.out_w()));
        let across = patches_of(&across, max_columns(level, s.kernel[1], s.group_in()));
        let step = PIXELS.div_ceil(s.out_w());
        let read = (step - 1) * s.stride[0] + (s.kernel[0] - 1) * s.dilation[0] + 1;
        let copy_rows = match input.needs_copy() {
            true => read.max(COPY_BYTES / size_of::<f32>() / (s.w * s.c_in)),
            false => 0,
        };
        DepthwiseWeightJob { s, level, input, dy, down, across, step, copy_rows }
    }

    /// Adds the products of output rows, counted over the whole batch, to the sums `[tap][channel]`.
    fn accumulate(&self, rows: Range<usize>, sum: &mut [f32]) {
        let s = self.s;
        let pitch = s.w * s.c_in;
        let in_place = as_f32(self.input.x).filter(|_| !self.input.needs_copy());
        let prefetched = in_place.filter(|x| exceeds_cache(x)).zip(as_f32(self.dy));
        scratch::with(self.copy_rows * pitch, |copy: &mut [f32]| {
            let mut copied = 0..0;
            let mut row = rows.start;
            while row < rows.end {
                let (n, y) = (row / s.out_h(), row % s.out_h());
                let step = self.step.min(s.out_h() - y).min(rows.end - row);
                let mut source = SourceRows { elements: in_place.unwrap_or_default(), first: 0 };
                if in_place.is_none() {
                    let read = self.source_rows(n, y..y + step);
                    if read.start < copied.start || copied.end < read.end {
                        copied = read.start..(read.start + self.copy_rows).min((n + 1) * s.h);
                        let out = &mut copy[..copied.len() * pitch];
                        self.input.copy(copied.start * pitch..copied.end * pitch, out);
                    }
                    source = SourceRows { elements: &copy[..copied.len() * pitch], first: copied.start };
                }
                let mut next = prefetched.map(|(x, dy)| prefetch_cursors(s, row + step, step, x, dy));
                let dy_pitch = s.out_w() * s.c_out;
                T::load(&self.dy[row * dy_pitch..(row + step) * dy_pitch], |dy| {
                    let dy = SourceRows { elements: dy, first: row };
                    for (ky, rows) in
                        patches_of(&self.down.within(&(y..y + step)), max_rows(s.kernel[1], s.group_in()))
                    {
                        for (kx, columns) in &self.across {
                            let patch = Patch {
                                rows: rows.clone(),
                                columns: columns.clone(),
                                ky: ky.clone(),
                                kx: kx.clone(),
                            };
                            // The first patch is by far the largest: it carries the prefetches.
                            accumulate_patch(s, self.level, n, &patch, source, dy, sum, next.take());
                        }
                    }
                });
                row += step;
            }
        });
    }

    /// Rows of `x`, counted over the whole batch, that output rows of image `n` read.
    fn source_rows(&self, n: usize, rows: Range<usize>) -> Range<usize> {
        let s = self.s;
        let row = |row: usize| n * s.h + row.saturating_sub(s.padding[0]).min(s.h);
        let end = (rows.end - 1) * s.stride[0] + (s.kernel[0] - 1) * s.dilation[0] + 1;
        row(rows.start * s.stride[0])..row(end)
    }
}

/// Prefetch cursors for the `step` output rows from `row` on (counted over the whole batch): the first and second half of the input
/// rows that earlier rows have not read, and the rows of `dy`, spread over one kernel call on as many rows.
fn prefetch_cursors(s: &ConvShape, row: usize, step: usize, x: &[f32], dy: &[f32]) -> [PrefetchCursor; 3] {
    let clip = |m: &[f32], pitch: usize, first: usize, rows: usize| {
        let end = m.len() / pitch;
        first.min(end) * pitch..(first + rows).min(end) * pitch
    };
    let (n, y) = (row / s.out_h(), row % s.out_h());
    let reach = (y * s.stride[0] + (s.kernel[0] - 1) * s.dilation[0] + 1).saturating_sub(s.padding[0]);
    let (pitch, rows) = (s.w * s.c_in, step * s.stride[0]);
    let input = &x[clip(x, pitch, n * s.h + reach.saturating_sub(s.stride[0]), rows)];
    let (lower, upper) = input.split_at(input.len() / 2);
    let output = &dy[clip(dy, s.out_w() * s.c_out, row, step)];
    let walk = step * s.out_w() * s.c_out.div_ceil(16);
    [lower, upper, output].map(|region| Prefetch::new([region, &[]], 1).cursor(walk))
}

/// Kernel rows summed together: as many as fit in registers.
fn max_rows(kernel_width: usize, group: usize) -> usize {
    match (kernel_width, group) {
        (3, 1) => 3,
        (5 | 7, 1) => 2,
        _ => 1,
    }
}

/// Kernel columns summed together: as many as fit in registers.
fn max_columns(level: Level, kernel_width: usize, group: usize) -> usize {
    if level == Level::Neon && group >= 4 { 1 } else { kernel_width }
}

impl ValidRanges {
    fn of(s: &ConvShape, a: usize, out: usize) -> ValidRanges {
        let size = [s.h, s.w][a];
        let valid = (0..s.kernel[a]).map(|k| {
            let offset = k * s.dilation[a];
            let first = s.padding[a].saturating_sub(offset).div_ceil(s.stride[a]);
            let end = (size + s.padding[a]).saturating_sub(offset).div_ceil(s.stride[a]).min(out);
            first.min(end)..end
        });
        ValidRanges { valid: valid.collect() }
    }

    fn within(&self, range: &Range<usize>) -> ValidRanges {
        let clip = |v: &Range<usize>| v.start.max(range.start)..v.end.min(range.end);
        ValidRanges { valid: self.valid.iter().map(clip).collect() }
    }
}

/// Covers every valid (tap, position) pair of an axis exactly once: up to `most` neighbouring taps over their common positions, then
/// each tap alone over its remaining positions.
fn patches_of(axis: &ValidRanges, most: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let mut patches = Vec::new();
    for k0 in (0..axis.valid.len()).step_by(most) {
        let taps = k0..(k0 + most).min(axis.valid.len());
        let start = axis.valid[taps.clone()].iter().map(|v| v.start).max().unwrap_or(0);
        let end = axis.valid[taps.clone()].iter().map(|v| v.end).min().unwrap_or(0);
        if start < end {
            patches.push((taps.clone(), start..end));
        }
        for k in taps {
            let v = &axis.valid[k];
            let rest = if start < end { [v.start..start, end..v.end] } else { [v.clone(), 0..0] };
            patches.extend(rest.into_iter().filter(|r| !r.is_empty()).map(|r| (k..k + 1, r)));
        }
    }
    patches
}

/// Accumulates one patch into the sums `[tap][channel]`.
fn accumulate_patch(
    s: &ConvShape,
    level: Level,
    n: usize,
    patch: &Patch,
    x: SourceRows,
    dy: SourceRows,
    sum: &mut [f32],
    ahead: Option<[PrefetchCursor; 3]>,
) {
    let c = s.c_in;
    let (oy, ox) = (patch.rows.start, patch.columns.start);
    let iy = oy * s.stride[0] + patch.ky.start * s.dilation[0] - s.padding[0];
    let ix = ox * s.stride[1] + patch.kx.start * s.dilation[1] - s.padding[1];
    let input = x.elements[((n * s.h + iy - x.first) * s.w + ix) * c..].as_ptr();
    let output = dy.elements[((n * s.out_h() + oy - dy.first) * s.out_w() + ox) * c..].as_ptr();
    let x_steps = [s.stride[0] * s.w * c, s.stride[1] * c];
    let tap_steps = [s.dilation[0] * s.w * c, s.dilation[1] * c];
    let size = [patch.rows.len(), patch.columns.len()];
    let g = s.group_in();
    let first = (patch.ky.start * s.kernel[1] + patch.kx.start) * g * c;
    let (dy_row, kw) = (s.out_w() * c, s.kernel[1]);
    macro_rules! of {
        ($($r:literal x $k:literal x $g:literal)*) => {
            match (patch.ky.len(), patch.kx.len(), g) {
                // SAFETY: the patch's inputs and outputs lie inside the arrays, by construction of the valid ranges.
                $(($r, $k, $g) => unsafe {
                    let to = sum[first..].as_mut_ptr();
                    taps::<$r, $k, $g>(level, input, x_steps, tap_steps, output, dy_row, size, c, to, kw, ahead)
                },)*
                (1, 1, _) => unreachable!("no kernel for groups of {g} channels"),
                _ => {
                    // No kernel of this size: process each tap alone.
                    for (ky, kx) in patch.ky.clone().flat_map(|ky| patch.kx.clone().map(move |kx| (ky, kx))) {
                        let (rows, columns) = (patch.rows.clone(), patch.columns.clone());
                        let single = Patch { rows, columns, ky: ky..ky + 1, kx: kx..kx + 1 };
                        accumulate_patch(s, level, n, &single, x, dy, sum, None);
                    }
                }
            }
        };
    }
    of!(1 x 1 x 1 2 x 1 x 1 3 x 1 x 1 1 x 3 x 1 2 x 3 x 1 3 x 3 x 1 1 x 5 x 1 2 x 5 x 1 1 x 7 x 1 2 x 7 x 1
        1 x 1 x 2 1 x 3 x 2 1 x 1 x 4 1 x 3 x 4 1 x 1 x 8 1 x 3 x 8);
}
