//! Gaussian blur: Pillow's, by three box blurs, and torchvision's, by a sampled kernel.
use crate::data::Image;

/// Box blurs that approximate Pillow's Gaussian blur.
const BOX_BLURS: usize = 3;

/// Pillow's Gaussian blur: extended box blurs (Gwosdek et al., 2011), each rounded to bytes; border pixels are repeated.
pub fn box_gaussian_blur(image: &mut Image, radius: f32) {
    let radius = box_radius(radius);
    if radius == 0.0 {
        return;
    }
    let [h, w, c] = image.size;
    blur_lines(&mut image.pixels, [h, w * c], [w, c], c, radius);
    blur_lines(&mut image.pixels, [w, c], [h, w * c], c, radius);
}

/// Radius of the box blurs for a Gaussian of this standard deviation, in f32 as Pillow computes it.
fn box_radius(sigma: f32) -> f32 {
    let variance = sigma * sigma / BOX_BLURS as f32;
    let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
    let l = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
    let numerator = (2.0 * l + 1.0) * (l * (l + 1.0) - 3.0 * variance);
    l + numerator / (6.0 * (variance - (l + 1.0) * (l + 1.0)))
}

/// Blurs along one axis in place. Lines and the pixels of a line are given by their number and their distance in bytes.
fn blur_lines(
    bytes: &mut [u8],
    [lines, line_stride]: [usize; 2],
    [count, stride]: [usize; 2],
    c: usize,
    radius: f32,
) {
    let whole = radius as usize;
    // Fixed point with 24 fractional bits: the weight of the whole pixels, and of the fractional one at each end.
    let inner = ((1u32 << 24) as f32 / (radius * 2.0 + 1.0)) as u32;
    let outer = ((1u32 << 24) - (2 * whole as u32 + 1) * inner) / 2;
    let mut line = vec![0u8; count];
    for first in (0..lines).flat_map(|line| (0..c).map(move |channel| line * line_stride + channel)) {
        for _ in 0..BOX_BLURS {
            line.iter_mut().enumerate().for_each(|(i, value)| *value = bytes[first + i * stride]);
            let at = |i: isize| u32::from(line[i.clamp(0, count as isize - 1) as usize]);
            let r = whole as isize;
            let mut sum: u32 = (-r - 1..r).map(at).sum();
            for i in 0..count as isize {
                sum += at(i + r);
                sum -= at(i - r - 1);
                let blurred = sum * inner + (at(i - r - 1) + at(i + r + 1)) * outer;
                bytes[first + i as usize * stride] = ((blurred + (1 << 23)) >> 24) as u8;
            }
        }
    }
}

/// torchvision's Gaussian blur with a kernel of `size` pixels, odd; the image is reflected at its border.
pub fn gaussian_blur(image: &mut Image, size: usize, sigma: f64) {
    let half = (size / 2) as isize;
    let densities: Vec<f32> =
        (-half..=half).map(|x| (-0.5 * (x as f64 / sigma).powi(2)).exp() as f32).collect();
    let sum: f32 = densities.iter().sum();
    let kernel: Vec<f32> = densities.iter().map(|density| density / sum).collect();
    let [h, w, c] = image.size;
    let mut rows = vec![0f32; h * w * c];
    for (row, out) in image.pixels.chunks_exact(w * c).zip(rows.chunks_exact_mut(w * c)) {
        for (x, out) in out.chunks_exact_mut(c).enumerate() {
            for (k, weight) in kernel.iter().enumerate() {
                let from = reflect(x as isize + k as isize - half, w) * c;
                out.iter_mut().zip(&row[from..]).for_each(|(sum, value)| *sum += weight * f32::from(*value));
            }
        }
    }
    let mut sums = vec![0f32; w * c];
    for (y, out) in image.pixels.chunks_exact_mut(w * c).enumerate() {
        sums.fill(0.0);
        for (k, weight) in kernel.iter().enumerate() {
            let from = reflect(y as isize + k as isize - half, h) * w * c;
            sums.iter_mut().zip(&rows[from..]).for_each(|(sum, value)| *sum += weight * value);
        }
        out.iter_mut().zip(&sums).for_each(|(out, sum)| *out = sum.round_ties_even() as u8);
    }
}

/// Position `i` of an axis of `n` pixels that is reflected at both ends, without repeating the end pixels.
pub fn reflect(i: isize, n: usize) -> usize {
    let period = (2 * n as isize - 2).max(1);
    let folded = i.rem_euclid(period);
    folded.min(period - folded).min(n as isize - 1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflection_does_not_repeat_the_end_pixels() {
        let reflected: Vec<usize> = (-5..8).map(|i| reflect(i, 4)).collect();
        assert_eq!(reflected, [1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]);
        assert_eq!([reflect(-3, 1), reflect(2, 1)], [0, 0]);
    }

    #[test]
    fn blurs_of_a_constant_image_change_nothing() {
        let constant = Image { size: [5, 4, 3], pixels: [10, 100, 250].repeat(20) };
        let mut image = constant.clone();
        gaussian_blur(&mut image, 23, 1.3);
        assert_eq!(image, constant);
        box_gaussian_blur(&mut image, 2.0);
        assert_eq!(image, constant);
    }
}
