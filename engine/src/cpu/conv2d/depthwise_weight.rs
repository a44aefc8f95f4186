//! The weight gradient of a depthwise convolution in f32: the sums of a few neighbouring taps are held in registers,
//! one register of channels at a time, while `dy` and `x` pass by.
use super::Shared;
use crate::conv_shape::ConvShape;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Level, simd_kernel};
use rayon::prelude::*;
use std::ops::Range;

/// Pixels that a kernel call sums over: enough to pay for reading and writing the sums, few enough for the
/// first-level cache.
const PIXELS: usize = 56;
/// Partial sums of the batch, each over neighbouring rows.
const CHUNKS: usize = 32;

/// Positions of one axis: for each tap, the outputs whose input exists.
struct Axis {
    valid: Vec<Range<usize>>,
}

/// A rectangle of output pixels and a rectangle of taps that all have their input there.
struct Patch {
    rows: Range<usize>,
    columns: Range<usize>,
    ky: Range<usize>,
    kx: Range<usize>,
}

simd_kernel! {
    /// `sum[(r*kw + k) * channels ..] += sum over pixels of dy * x[r * tap_row + k * tap_pixel]` for `R` by `K` taps.
    ///
    /// # Safety
    /// All pixels and taps must exist in the three arrays.
    fn taps<S at level, const R: usize, const K: usize>(
        x: *const f32,
        x_steps: [usize; 2],
        tap_steps: [usize; 2],
        dy: *const f32,
        dy_row: usize,
        size: [usize; 2],
        channels: usize,
        sum: *mut f32,
        kw: usize,
    ) {
        unsafe {
            let mut c = 0;
            while c < channels {
                let lanes = if channels - c < S::LANES { channels - c } else { S::LANES };
                let mut acc = [[S::splat(0.0); K]; R];
                for oy in 0..size[0] {
                    let mut d = dy.add(oy * dy_row + c);
                    let mut p = x.add(oy * x_steps[0] + c);
                    for _ in 0..size[1] {
                        let g = S::load_first(d, lanes);
                        for r in 0..R {
                            for k in 0..K {
                                let v = S::load_first(p.add(r * tap_steps[0] + k * tap_steps[1]), lanes);
                                acc[r][k] = S::fma(v, g, acc[r][k]);
                            }
                        }
                        d = d.wrapping_add(channels);
                        p = p.wrapping_add(x_steps[1]);
                    }
                }
                for r in 0..R {
                    for k in 0..K {
                        let to = sum.add((r * kw + k) * channels + c);
                        S::store_first(to, lanes, S::add(S::load_first(to, lanes), acc[r][k]));
                    }
                }
                c += S::LANES;
            }
        }
    }
}

/// `dw`, overwritten, from `x` and `dy`.
pub(super) fn gradient(s: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let level = simd::level();
    let taps = s.kernel[0] * s.kernel[1];
    let (channels, size) = (s.c_in, dw.len());
    let (ys, xs) = (Axis::of(s, 0, s.out_h()), Axis::of(s, 1, s.out_w()));
    let rows = s.n * s.out_h();
    let chunks = CHUNKS.min(rows).max(1);
    let across = patches_of(&xs, s.kernel[1]);
    scratch::with(chunks * size, |partial: &mut [f32]| {
        let shared = Shared(partial.as_mut_ptr());
        (0..chunks).into_par_iter().with_max_len(1).for_each(|chunk| {
            // SAFETY: each chunk has its own part of the buffer.
            let sum = unsafe { std::slice::from_raw_parts_mut(shared.at(chunk * size), size) };
            sum.fill(0.0);
            let mut row = chunk * rows / chunks;
            let end = (chunk + 1) * rows / chunks;
            while row < end {
                let (n, y0) = (row / s.out_h(), row % s.out_h());
                let step = PIXELS.div_ceil(s.out_w()).min(s.out_h() - y0).min(end - row);
                let own = y0..y0 + step;
                for (ky, rows) in patches_of(&ys.within(&own), max_rows(s.kernel[1])) {
                    for (kx, columns) in &across {
                        let patch = Patch {
                            rows: rows.clone(),
                            columns: columns.clone(),
                            ky: ky.clone(),
                            kx: kx.clone(),
                        };
                        add(s, level, n, &patch, x, dy, sum);
                    }
                }
                row += step;
            }
        });
        // [tap][channel] partial sums, in order, to [channel][tap].
        for t in 0..taps {
            for c in 0..channels {
                dw[c * taps + t] = partial[t * channels + c..].iter().step_by(size).sum();
            }
        }
    });
}

/// Kernel rows whose taps are summed together: as many as the registers hold.
fn max_rows(kernel_width: usize) -> usize {
    match kernel_width {
        3 => 3,
        5 | 7 => 2,
        _ => 1,
    }
}

impl Axis {
    fn of(s: &ConvShape, a: usize, out: usize) -> Axis {
        let size = [s.h, s.w][a];
        let valid = (0..s.kernel[a]).map(|k| {
            let offset = k * s.dilation[a];
            let first = s.padding[a].saturating_sub(offset).div_ceil(s.stride[a]);
            let end = (size + s.padding[a]).saturating_sub(offset).div_ceil(s.stride[a]).min(out);
            first.min(end)..end
        });
        Axis { valid: valid.collect() }
    }

    fn within(&self, own: &Range<usize>) -> Axis {
        let clip = |v: &Range<usize>| v.start.max(own.start)..v.end.min(own.end);
        Axis { valid: self.valid.iter().map(clip).collect() }
    }
}

/// Covers every (tap, position) pair of an axis exactly once: up to `most` neighbouring taps over the positions that
/// all of them have, then each tap alone over what is left of its own.
fn patches_of(axis: &Axis, most: usize) -> Vec<(Range<usize>, Range<usize>)> {
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

/// Adds one patch to the sums `[tap][channel]`.
fn add(s: &ConvShape, level: Level, n: usize, patch: &Patch, x: &[f32], dy: &[f32], sum: &mut [f32]) {
    let c = s.c_in;
    let (oy, ox) = (patch.rows.start, patch.columns.start);
    let iy = oy * s.stride[0] + patch.ky.start * s.dilation[0] - s.padding[0];
    let ix = ox * s.stride[1] + patch.kx.start * s.dilation[1] - s.padding[1];
    let x = x[((n * s.h + iy) * s.w + ix) * c..].as_ptr();
    let dy = dy[((n * s.out_h() + oy) * s.out_w() + ox) * c..].as_ptr();
    let x_steps = [s.stride[0] * s.w * c, s.stride[1] * c];
    let tap_steps = [s.dilation[0] * s.w * c, s.dilation[1] * c];
    let size = [patch.rows.len(), patch.columns.len()];
    let sum = &mut sum[(patch.ky.start * s.kernel[1] + patch.kx.start) * c..];
    macro_rules! of {
        ($($r:literal x $k:literal)*) => {
            match (patch.ky.len(), patch.kx.len()) {
                // SAFETY: the patch's inputs and outputs exist, by construction of the valid ranges.
                $(($r, $k) => unsafe {
                    let (dy_row, kw) = (s.out_w() * c, s.kernel[1]);
                    taps::<$r, $k>(level, x, x_steps, tap_steps, dy, dy_row, size, c, sum.as_mut_ptr(), kw)
                },)*
                (rows, columns) => {
                    // No kernel of this size: tap by tap.
                    for (i, j) in (0..rows).flat_map(|i| (0..columns).map(move |j| (i, j))) {
                        // SAFETY: as above.
                        unsafe {
                            let x = x.wrapping_add(i * tap_steps[0] + j * tap_steps[1]);
                            let sum = sum[(i * s.kernel[1] + j) * c..].as_mut_ptr();
                            taps::<1, 1>(level, x, x_steps, tap_steps, dy, s.out_w() * c, size, c, sum, 1);
                        }
                    }
                }
            }
        };
    }
    of!(1 x 1 2 x 1 3 x 1 1 x 3 2 x 3 3 x 3 1 x 5 2 x 5 1 x 7 2 x 7);
}
