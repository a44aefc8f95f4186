//! The passes of separable image resizing in fixed-point arithmetic.
use crate::cpu::simd;
use crate::cpu::vectorized::vectorized;

/// Fractional bits of the weights: 32 bits less 8 of a pixel and 2 for the overshoot of cubic weights.
pub const WEIGHT_BITS: u32 = 22;

/// Bytes that [`resize_width`] computes together: those of a pixel in several rows.
const LANES: usize = 16;
/// Bytes that [`weighted_rows`] computes together.
const BLOCK: usize = 96;

/// Filter taps along an axis: for each output pixel the first input pixel, and the weights from it on.
#[derive(Clone, Debug)]
pub struct FilterTaps {
    /// First input pixel of each output pixel.
    pub starts: Vec<usize>,
    /// Number of weights of each output pixel.
    pub counts: Vec<usize>,
    /// Weights of all output pixels, `stride` for each.
    pub weights: Vec<i32>,
    /// Distance of the weights of neighbouring output pixels.
    pub stride: usize,
}

impl FilterTaps {
    /// First input pixel and weights of an output pixel.
    #[inline(always)]
    pub fn get(&self, output: usize) -> (usize, &[i32]) {
        (self.starts[output], &self.weights[output * self.stride..][..self.counts[output]])
    }
}

/// Resizes the width of rows of `c` channels, 1 or 3. The rows of `x` are `stride` bytes apart; the last may be shorter. A row of `y` has as
/// many pixels as there are taps.
pub fn resize_width(x: &[u8], stride: usize, c: usize, taps: &FilterTaps, y: &mut [u8]) {
    let inputs = taps.starts.iter().zip(&taps.counts).map(|(start, count)| start + count).max();
    let mut packed = vec![[0; LANES]; inputs.unwrap_or(0)];
    let mut results = vec![[0; LANES]; taps.starts.len()];
    let out_row = taps.starts.len() * c;
    // Rows that fill the lanes, with three channels padded to four.
    let rows = if c == 1 { LANES } else { LANES / 4 };
    for (x, y) in x.chunks(rows * stride).zip(y.chunks_mut(rows * out_row)) {
        match c {
            1 => pack::<1, 1>(x, stride, &mut packed),
            _ => pack::<3, 4>(x, stride, &mut packed),
        }
        weighted_pixels(&packed, taps, &mut results);
        match c {
            1 => unpack::<1, 1>(&results, y, out_row),
            _ => unpack::<3, 4>(&results, y, out_row),
        }
    }
}

/// Gathers the pixels of each column. A pixel of `C` bytes takes `P` lanes, of which the last may hold a byte of the next pixel.
fn pack<const C: usize, const P: usize>(x: &[u8], stride: usize, packed: &mut [[u8; LANES]]) {
    let Some((last, whole)) = packed.split_last_mut() else { return };
    let width = C * (whole.len() + 1);
    let rows = x.chunks(stride).map(|row| &row[..width]);
    if C < P && rows.len() == LANES / P {
        let mut starts = [x.as_ptr(); LANES];
        rows.clone().zip(&mut starts).for_each(|(row, start)| *start = row.as_ptr());
        for (i, packed) in whole.iter_mut().enumerate() {
            for (start, packed) in starts.iter().zip(packed.chunks_exact_mut(P)) {
                // SAFETY: rows have `width` bytes, and at least C more after this pixel.
                packed.copy_from_slice(unsafe { std::slice::from_raw_parts(start.add(i * C), P) });
            }
        }
    } else {
        for (r, row) in rows.clone().enumerate() {
            for (pixel, packed) in row.chunks_exact(C).zip(&mut *whole) {
                packed[r * P..][..C].copy_from_slice(pixel);
            }
        }
    }
    for (row, packed) in rows.zip(last.chunks_exact_mut(P)) {
        packed[..C].copy_from_slice(&row[width - C..]);
    }
}

/// Scatters columns to the rows of `y`.
fn unpack<const C: usize, const P: usize>(results: &[[u8; LANES]], y: &mut [u8], row: usize) {
    let Some((last, whole)) = results.split_last() else { return };
    assert_eq!(row, C * results.len(), "a row of y holds every column");
    if C < P && y.len() == LANES / P * row {
        let start = y.as_mut_ptr();
        for (i, result) in whole.iter().enumerate() {
            for (r, pixel) in result.chunks_exact(P).enumerate() {
                // In ascending order, so that bytes beyond the pixel are overwritten.
                // SAFETY: rows have `row` bytes, and at least C more after this pixel.
                unsafe { start.add(r * row + i * C).copy_from_nonoverlapping(pixel.as_ptr(), P) };
            }
        }
    } else {
        for (r, y) in y.chunks_exact_mut(row).enumerate() {
            for (pixel, result) in y.chunks_exact_mut(C).zip(whole) {
                pixel.copy_from_slice(&result[r * P..][..C]);
            }
        }
    }
    for (y, pixel) in y.chunks_exact_mut(row).zip(last.chunks_exact(P)) {
        y[row - C..].copy_from_slice(&pixel[..C]);
    }
}

/// Each output pixel as the weighted sum of its input pixels.
fn weighted_pixels(x: &[[u8; LANES]], taps: &FilterTaps, y: &mut [[u8; LANES]]) {
    match simd::level() {
        // SAFETY: the CPU has the features of the level.
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx512 => unsafe { weighted_pixels_avx512(x, taps, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx2 => unsafe { weighted_pixels_avx2(x, taps, y) },
        // The compiler uses NEON, which is part of the baseline.
        _ => weighted_pixels_portable(x, taps, y),
    }
}

fn weighted_pixels_portable(x: &[[u8; LANES]], taps: &FilterTaps, y: &mut [[u8; LANES]]) {
    for (output, y) in y.iter_mut().enumerate() {
        let (start, weights) = taps.get(output);
        let mut sums = [HALF; LANES];
        for (pixel, weight) in x[start..].iter().zip(weights) {
            for lane in 0..LANES {
                sums[lane] += i32::from(pixel[lane]) * weight;
            }
        }
        for lane in 0..LANES {
            y[lane] = rounded(sums[lane]);
        }
    }
}

// The compiler would vectorise the portable loops over taps, of which there are few, and not over lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn weighted_pixels_avx2(x: &[[u8; LANES]], taps: &FilterTaps, y: &mut [[u8; LANES]]) {
    use std::arch::x86_64::*;
    for (output, y) in y.iter_mut().enumerate() {
        let (start, weights) = taps.get(output);
        let mut sums = [_mm256_set1_epi32(HALF); 2];
        for (pixel, weight) in x[start..].iter().zip(weights) {
            let weight = _mm256_set1_epi32(*weight);
            // SAFETY: a pixel has 16 bytes.
            let pixel = unsafe { _mm_loadu_si128(pixel.as_ptr().cast()) };
            let high = _mm_unpackhi_epi64(pixel, pixel);
            sums[0] = _mm256_add_epi32(sums[0], _mm256_mullo_epi32(_mm256_cvtepu8_epi32(pixel), weight));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_mullo_epi32(_mm256_cvtepu8_epi32(high), weight));
        }
        let [low, high] = sums.map(|sum| _mm256_srai_epi32::<{ WEIGHT_BITS as i32 }>(sum));
        // Packing interleaves the 128-bit halves; the permutation restores the order. Both saturate, like `rounded`.
        let words = _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi32(low, high));
        let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
        // SAFETY: as above.
        unsafe { _mm_storeu_si128(y.as_mut_ptr().cast(), bytes) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn weighted_pixels_avx512(x: &[[u8; LANES]], taps: &FilterTaps, y: &mut [[u8; LANES]]) {
    use std::arch::x86_64::*;
    for (output, y) in y.iter_mut().enumerate() {
        let (start, weights) = taps.get(output);
        let mut sum = _mm512_set1_epi32(HALF);
        for (pixel, weight) in x[start..].iter().zip(weights) {
            // SAFETY: a pixel has 16 bytes.
            let pixel = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(pixel.as_ptr().cast()) });
            sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(pixel, _mm512_set1_epi32(*weight)));
        }
        let value = _mm512_srai_epi32::<{ WEIGHT_BITS }>(sum);
        let bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(value, _mm512_setzero_si512()));
        // SAFETY: as above.
        unsafe { _mm_storeu_si128(y.as_mut_ptr().cast(), bytes) };
    }
}

vectorized! {
    /// The weighted sum of rows that are `stride` bytes apart, as many as there are weights. The last row of `x` may be shorter.
    pub wide fn weighted_rows(x: &[u8], stride: usize, weights: &[i32], y: &mut [u8]) {
        let whole = y.len() / BLOCK * BLOCK;
        let (blocks, rest) = y.split_at_mut(whole);
        for (i, y) in blocks.chunks_exact_mut(BLOCK).enumerate() {
            let mut sums = [HALF; BLOCK];
            for (k, weight) in weights.iter().enumerate() {
                let row = &x[k * stride + i * BLOCK..][..BLOCK];
                for j in 0..BLOCK {
                    sums[j] += i32::from(row[j]) * weight;
                }
            }
            for j in 0..BLOCK {
                y[j] = rounded(sums[j]);
            }
        }
        for (j, y) in rest.iter_mut().enumerate() {
            let terms = weights.iter().enumerate();
            *y = rounded(HALF + terms.map(|(k, weight)| i32::from(x[k * stride + whole + j]) * weight).sum::<i32>());
        }
    }
}

/// Half of the weights' unit.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// The value of a sum that began with [`HALF`].
#[inline(always)]
fn rounded(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Level, level, lock_level, set_max_level};

    #[test]
    fn sums_are_weighted_rounded_and_clipped_at_every_level() {
        let _guard = lock_level();
        let detected = level();
        let unit = 1 << WEIGHT_BITS;
        let taps = FilterTaps {
            starts: vec![0, 2, 4],
            counts: vec![2, 3, 1],
            weights: vec![unit / 2, unit / 2, 0, 2 * unit, -unit / 2, -unit / 2, unit, 0, 0],
            stride: 3,
        };
        for limit in Level::supported() {
            set_max_level(*limit);
            for (c, h) in [(1, 37), (3, 9)] {
                let x: Vec<u8> = (0..h * 5 * c).map(|i| (i * 83 % 256) as u8).collect();
                let mut y = vec![0; h * 3 * c];
                resize_width(&x, 5 * c, c, &taps, &mut y);
                for (i, got) in y.into_iter().enumerate() {
                    let (row, output, channel) = (i / c / 3, i / c % 3, i % c);
                    let at = |column: usize| i32::from(x[(row * 5 + column) * c + channel]);
                    let expected = match output {
                        0 => (at(0) + at(1) + 1) / 2,
                        1 => (4 * at(2) - at(3) - at(4) + 1).div_euclid(2).clamp(0, 255),
                        _ => at(4),
                    };
                    assert_eq!(i32::from(got), expected, "{limit:?}, {c} channels, byte {i}");
                }
            }
            let x: Vec<u8> = (0..300).map(|i| (i * 83 % 256) as u8).collect();
            let mut y = vec![0; 97];
            weighted_rows(&x[3..], 100, &[2 * unit, -unit / 2, -unit / 2], &mut y);
            for (i, got) in y.into_iter().enumerate() {
                let at = |row: usize| i32::from(x[3 + row * 100 + i]);
                let expected = (4 * at(0) - at(1) - at(2) + 1).div_euclid(2).clamp(0, 255);
                assert_eq!(i32::from(got), expected, "{limit:?}, byte {i}");
            }
        }
        set_max_level(detected);
    }
}
