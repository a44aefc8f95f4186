//! Conversion of YCbCr to RGB (JFIF) in libjpeg's fixed-point arithmetic with 16 fractional bits.
use crate::cpu::vectorized::vectorized;

/// Pixels that are converted together.
const BLOCK: usize = 32;

vectorized! {
    /// Converts a row. The planes are as long as the row has pixels, `rgb` three times as long.
    pub fn ycbcr_to_rgb(y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
        let whole = y.len() / BLOCK * BLOCK;
        for at in (0..whole).step_by(BLOCK) {
            let block = |plane: &[u8]| -> [u8; BLOCK] { plane[at..at + BLOCK].try_into().unwrap_or([0; BLOCK]) };
            rgb[3 * at..][..3 * BLOCK].copy_from_slice(&convert(block(y), block(cb), block(cr)));
        }
        let rest = y.len() - whole;
        if rest > 0 {
            let mut planes = [[0; BLOCK]; 3];
            for (padded, plane) in planes.iter_mut().zip([y, cb, cr]) {
                padded[..rest].copy_from_slice(&plane[whole..][..rest]);
            }
            rgb[3 * whole..][..3 * rest].copy_from_slice(&convert(planes[0], planes[1], planes[2])[..3 * rest]);
        }
    }
}

#[inline(always)]
fn convert(y: [u8; BLOCK], cb: [u8; BLOCK], cr: [u8; BLOCK]) -> [u8; 3 * BLOCK] {
    let mut planes = [[0; BLOCK]; 3];
    let half = 1 << 15;
    for i in 0..BLOCK {
        let (y, cb, cr) = (i32::from(y[i]), i32::from(cb[i]) - 128, i32::from(cr[i]) - 128);
        planes[0][i] = (y + ((91_881 * cr + half) >> 16)).clamp(0, 255) as u8;
        planes[1][i] = (y + ((-22_554 * cb - 46_802 * cr + half) >> 16)).clamp(0, 255) as u8;
        planes[2][i] = (y + ((116_130 * cb + half) >> 16)).clamp(0, 255) as u8;
    }
    let mut rgb = [0; 3 * BLOCK];
    for i in 0..BLOCK {
        (rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2]) = (planes[0][i], planes[1][i], planes[2][i]);
    }
    rgb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_converted_and_saturate() {
        let pixels = [
            ([0, 128, 128], [0, 0, 0]),
            ([255, 128, 128], [255, 255, 255]),
            ([76, 85, 255], [254, 0, 0]),
            ([150, 44, 21], [0, 255, 1]),
            ([29, 255, 107], [0, 0, 254]),
            ([255, 255, 255], [255, 121, 255]),
        ];
        // Longer than a block, with a rest.
        let n = 77;
        let plane = |c: usize| -> Vec<u8> { (0..n).map(|i| pixels[i % pixels.len()].0[c]).collect() };
        let mut rgb = vec![0; 3 * n];
        ycbcr_to_rgb(&plane(0), &plane(1), &plane(2), &mut rgb);
        for (i, got) in rgb.chunks_exact(3).enumerate() {
            assert_eq!(got, pixels[i % pixels.len()].1, "pixel {i}");
        }
    }
}
