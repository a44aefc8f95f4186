//! Upsampling of chroma rows by libjpeg's "fancy" triangle filter: each sample counts three times, its nearest neighbour once. Rounding
//! alternates between the two neighbours of a sample.
use crate::cpu::vectorized::vectorized;

vectorized! {
    /// Doubles a row. `row` has one more sample at each end than it is half as long as `out`.
    pub fn double_width(row: &[u8], out: &mut [u8]) {
        let m = out.len() / 2;
        let (left, centre, right) = (&row[..m], &row[1..m + 1], &row[2..m + 2]);
        let out = &mut out[..2 * m];
        for i in 0..m {
            let [left, centre, right] = [left[i], centre[i], right[i]].map(u16::from);
            out[2 * i] = ((3 * centre + left + 1) >> 2) as u8;
            out[2 * i + 1] = ((3 * centre + right + 2) >> 2) as u8;
        }
    }
}

vectorized! {
    /// Doubles a row and interpolates it with the row `far`, the one above or below. The rows are as in [`double_width`].
    pub fn double_both(near: &[u8], far: &[u8], out: &mut [u8]) {
        let m = out.len() / 2;
        let (near, far) = (&near[..m + 2], &far[..m + 2]);
        let out = &mut out[..2 * m];
        for i in 0..m {
            let left = 3 * u16::from(near[i]) + u16::from(far[i]);
            let centre = 3 * u16::from(near[i + 1]) + u16::from(far[i + 1]);
            let right = 3 * u16::from(near[i + 2]) + u16::from(far[i + 2]);
            out[2 * i] = ((3 * centre + left + 8) >> 4) as u8;
            out[2 * i + 1] = ((3 * centre + right + 7) >> 4) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chroma_is_interpolated_with_alternating_rounding() {
        let mut out = [0; 4];
        double_width(&[10, 10, 20, 20], &mut out);
        assert_eq!(out, [10, 13, 17, 20]);
        double_both(&[10, 10, 20, 20], &[30; 4], &mut out);
        // Column sums 60, 60, 90, 90.
        assert_eq!(out, [15, 17, 21, 22]);
        double_both(&[0, 255, 255, 0], &[255; 4], &mut out);
        assert_eq!(out, [207, 255, 255, 207]);
    }

    #[test]
    fn long_rows_match_short_ones() {
        let near: Vec<u8> = (0..203).map(|i| (i * 89 % 256) as u8).collect();
        let far: Vec<u8> = (0..203).map(|i| (i * 57 % 253) as u8).collect();
        let (mut width, mut both) = (vec![0; 402], vec![0; 402]);
        double_width(&near, &mut width);
        double_both(&near, &far, &mut both);
        for i in 0..201 {
            let (mut one_width, mut one_both) = ([0; 2], [0; 2]);
            double_width(&near[i..i + 3], &mut one_width);
            double_both(&near[i..i + 3], &far[i..i + 3], &mut one_both);
            assert_eq!((&width[2 * i..][..2], &both[2 * i..][..2]), (&one_width[..], &one_both[..]), "{i}");
        }
    }
}
