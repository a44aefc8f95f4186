//! Inverse DCT of JPEG blocks, bit-identical with libjpeg's accurate integer method: Loeffler, Ligtenberg and Moschytz (1989) with 13
//! fractional bits in the constants and 2 in the values between the passes. Several blocks are transformed together, one in each lane.
use crate::cpu::vectorized::vectorized;

/// Blocks that are transformed together.
pub const LANES: usize = 16;

/// Coefficients of blocks: number `i` of the block in `lane`, counted row by row, is at `i * LANES + lane`.
pub type BlockCoefficients = [i16; 64 * LANES];
/// Samples of blocks, one block of 8 rows after the other.
pub type BlockSamples = [u8; 64 * LANES];

/// Fractional bits of the constants, and of the values between the passes.
const CONST_BITS: u32 = 13;
const PASS_BITS: u32 = 2;

vectorized! {
    /// Dequantises and transforms blocks, and adds 128.
    pub wide fn inverse_dct(coefficients: &BlockCoefficients, quantization: &[u16; 64], samples: &mut BlockSamples) {
        let mut columns = [0i32; 64 * LANES];
        for x in 0..8 {
            for lane in 0..LANES {
                let mut values = [0; 8];
                for (y, value) in values.iter_mut().enumerate() {
                    let i = y * 8 + x;
                    *value = i32::from(coefficients[i * LANES + lane]).wrapping_mul(i32::from(quantization[i]));
                }
                let values = transform(values, 1 << (CONST_BITS - PASS_BITS - 1));
                for (y, value) in values.into_iter().enumerate() {
                    columns[(y * 8 + x) * LANES + lane] = value >> (CONST_BITS - PASS_BITS);
                }
            }
        }
        // The second pass also divides by 8.
        let shift = CONST_BITS + PASS_BITS + 3;
        for y in 0..8 {
            let mut row = [0u8; 8 * LANES];
            for lane in 0..LANES {
                let mut values = [0; 8];
                for (x, value) in values.iter_mut().enumerate() {
                    *value = columns[(y * 8 + x) * LANES + lane];
                }
                let values = transform(values, (128 << shift) + (1 << (shift - 1)));
                for (x, value) in values.into_iter().enumerate() {
                    row[x * LANES + lane] = (value >> shift).clamp(0, 255) as u8;
                }
            }
            // Three perfect shuffles turn `[8, LANES]` into `[LANES, 8]`.
            let row = shuffled(shuffled(shuffled(row)));
            for lane in 0..LANES {
                samples[lane * 64 + y * 8..][..8].copy_from_slice(&row[lane * 8..][..8]);
            }
        }
    }
}

/// Transforms eight values and adds `bias` to each. Sums wrap around as only those of damaged files can.
#[inline(always)]
fn transform(values: [i32; 8], bias: i32) -> [i32; 8] {
    let (mul, add, sub) = (i32::wrapping_mul, i32::wrapping_add, i32::wrapping_sub);
    let [x0, x1, x2, x3, x4, x5, x6, x7] = values;
    // Even part. The constants are cosines and their sums, scaled by 2^13.
    let z1 = mul(add(x2, x6), 4433);
    let (t2, t3) = (add(z1, mul(x6, -15137)), add(z1, mul(x2, 6270)));
    let t0 = add(add(x0, x4).wrapping_shl(CONST_BITS), bias);
    let t1 = add(sub(x0, x4).wrapping_shl(CONST_BITS), bias);
    let (e0, e1, e2, e3) = (add(t0, t3), add(t1, t2), sub(t1, t2), sub(t0, t3));
    // Odd part.
    let (z1, z2, z3, z4) = (add(x7, x1), add(x5, x3), add(x7, x3), add(x5, x1));
    let z5 = mul(add(z3, z4), 9633);
    let (z1, z2) = (mul(z1, -7373), mul(z2, -20995));
    let (z3, z4) = (add(mul(z3, -16069), z5), add(mul(z4, -3196), z5));
    let o3 = add(mul(x7, 2446), add(z1, z3));
    let o2 = add(mul(x5, 16819), add(z2, z4));
    let o1 = add(mul(x3, 25172), add(z2, z3));
    let o0 = add(mul(x1, 12299), add(z1, z4));
    [add(e0, o0), add(e1, o1), add(e2, o2), add(e3, o3), sub(e3, o3), sub(e2, o2), sub(e1, o1), sub(e0, o0)]
}

/// The first and the last half of a row's values, interleaved.
#[inline(always)]
fn shuffled(row: [u8; 8 * LANES]) -> [u8; 8 * LANES] {
    let mut result = [0; 8 * LANES];
    for i in 0..4 * LANES {
        (result[2 * i], result[2 * i + 1]) = (row[i], row[4 * LANES + i]);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Level, level, lock_level, set_max_level};
    use std::f64::consts::PI;

    /// The inverse DCT by its definition.
    fn reference(coefficients: &[f64; 64]) -> [f64; 64] {
        let scale = |k: usize| if k == 0 { (0.125f64).sqrt() } else { 0.5 };
        let cosine = |k: usize, x: usize| scale(k) * ((2 * x + 1) as f64 * k as f64 * PI / 16.0).cos();
        std::array::from_fn(|i| {
            let (y, x) = (i / 8, i % 8);
            let terms = coefficients.iter().enumerate();
            terms.map(|(j, value)| value * cosine(j / 8, y) * cosine(j % 8, x)).sum::<f64>() + 128.0
        })
    }

    #[test]
    fn inverse_dct_matches_its_definition_and_every_level_gives_the_same_bits() {
        let _guard = lock_level();
        let detected = level();
        let quantization: [u16; 64] = std::array::from_fn(|i| 3 + i as u16 / 4);
        let mut coefficients = [0i16; 64 * LANES];
        for (i, value) in coefficients.iter_mut().enumerate() {
            let (place, lane) = (i / LANES, i % LANES);
            let noise = (i * 2654435761) >> 7;
            *value = if noise % 4 == 0 { (noise % 41) as i16 - 20 } else { 0 } / (1 + place as i16 / 16);
            *value += if place == 0 { lane as i16 * 8 - 60 } else { 0 };
        }
        let mut results = vec![];
        for limit in Level::supported() {
            set_max_level(*limit);
            let mut samples = [0; 64 * LANES];
            inverse_dct(&coefficients, &quantization, &mut samples);
            results.push(samples);
        }
        set_max_level(detected);
        assert!(results.iter().all(|samples| *samples == results[0]));
        for lane in 0..LANES {
            let block: [f64; 64] = std::array::from_fn(|i| {
                f64::from(coefficients[i * LANES + lane]) * f64::from(quantization[i])
            });
            for (got, expected) in results[0][lane * 64..].iter().zip(reference(&block)) {
                let expected = expected.clamp(0.0, 255.0);
                assert!((f64::from(*got) - expected).abs() < 0.75, "{got} instead of {expected}");
            }
        }
    }
}
