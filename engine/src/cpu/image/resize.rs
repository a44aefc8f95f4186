//! The passes of separable image resizing in fixed-point arithmetic.
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
    for (r, row) in x.chunks(stride).enumerate() {
        for (i, packed) in packed.iter_mut().enumerate() {
            let (rest, packed) = (&row[i * C..], &mut packed[r * P..]);
            match (rest.first_chunk::<P>(), packed.first_chunk_mut::<P>()) {
                (Some(pixel), Some(packed)) => *packed = *pixel,
                _ => packed[..C].copy_from_slice(&rest[..C]),
            }
        }
    }
}

/// Scatters columns to the rows of `y`.
fn unpack<const C: usize, const P: usize>(results: &[[u8; LANES]], y: &mut [u8], row: usize) {
    for (r, row) in y.chunks_exact_mut(row).enumerate() {
        for (i, result) in results.iter().enumerate() {
            // In ascending order, so that bytes beyond the pixel are overwritten.
            let (rest, result) = (&mut row[i * C..], &result[r * P..]);
            match (rest.first_chunk_mut::<P>(), result.first_chunk::<P>()) {
                (Some(pixel), Some(result)) => *pixel = *result,
                _ => rest[..C].copy_from_slice(&result[..C]),
            }
        }
    }
}

vectorized! {
    /// Each output pixel as the weighted sum of its input pixels.
    wide fn weighted_pixels(x: &[[u8; LANES]], taps: &FilterTaps, y: &mut [[u8; LANES]]) {
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
