//! Operations by a table of 256 values per channel, as Pillow's `ImageOps`.
use crate::data::Image;

/// Replaces each value of each channel by `table(channel, value)`.
fn map(image: &mut Image, table: impl Fn(usize, u8) -> u8) {
    let channels = image.size[2];
    let tables: Vec<[u8; 256]> =
        (0..channels).map(|c| std::array::from_fn(|value| table(c, value as u8))).collect();
    for pixel in image.pixels.chunks_exact_mut(channels) {
        pixel.iter_mut().zip(&tables).for_each(|(value, table)| *value = table[usize::from(*value)]);
    }
}

fn histograms(image: &Image) -> Vec<[usize; 256]> {
    let mut histograms = vec![[0; 256]; image.size[2]];
    for pixel in image.pixels.chunks_exact(image.size[2]) {
        pixel.iter().zip(&mut histograms).for_each(|(value, counts)| counts[usize::from(*value)] += 1);
    }
    histograms
}

/// Stretches the range of each channel to 0..=255.
pub fn auto_contrast(image: &mut Image) {
    let used = |counts: &[usize; 256]| {
        let low = counts.iter().position(|count| *count > 0).unwrap_or(0);
        let high = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
        (low as f64, high as f64)
    };
    let ranges: Vec<(f64, f64)> = histograms(image).iter().map(used).collect();
    map(image, |channel, value| {
        let (low, high) = ranges[channel];
        if high <= low {
            return value;
        }
        let scale = 255.0 / (high - low);
        (f64::from(value) * scale - low * scale).clamp(0.0, 255.0) as u8
    });
}

/// Flattens the histogram of each channel.
pub fn equalize(image: &mut Image) {
    let tables: Vec<[u8; 256]> = histograms(image)
        .iter()
        .map(|counts| {
            let last = counts.iter().rev().find(|count| **count > 0).copied().unwrap_or(0);
            let step = (counts.iter().sum::<usize>() - last) / 255;
            let mut sum = step / 2;
            std::array::from_fn(|value| {
                if step == 0 {
                    return value as u8;
                }
                let level = (sum / step).min(255) as u8;
                sum += counts[value];
                level
            })
        })
        .collect();
    map(image, |channel, value| tables[channel][usize::from(value)]);
}

/// Negative: 255 minus each value.
pub fn invert(image: &mut Image) {
    map(image, |_, value| 255 - value);
}

/// Keeps the highest bits of each value, up to 8; with 0 bits the image is black.
pub fn posterize(image: &mut Image, bits: u32) {
    let dropped = 8 - bits.min(8);
    map(image, |_, value| (u32::from(value) >> dropped << dropped) as u8);
}

/// Inverts the values from `threshold` up.
pub fn solarize(image: &mut Image, threshold: u32) {
    map(image, |_, value| if u32::from(value) < threshold { value } else { 255 - value });
}

/// Adds to the values below 128.
pub fn solarize_add(image: &mut Image, add: u32) {
    map(image, |_, value| if value < 128 { (u32::from(value) + add).min(255) as u8 } else { value });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pixels: &[u8], op: impl Fn(&mut Image)) -> Vec<u8> {
        let mut image = Image { size: [1, pixels.len(), 1], pixels: pixels.to_vec() };
        op(&mut image);
        image.pixels
    }

    #[test]
    fn posterize_to_no_bits_is_black() {
        assert_eq!(after(&[0, 7, 255], |image| posterize(image, 0)), [0, 0, 0]);
        assert_eq!(after(&[0, 7, 255], |image| posterize(image, 1)), [0, 0, 128]);
        assert_eq!(after(&[0, 7, 255], |image| posterize(image, 9)), [0, 7, 255]);
    }

    #[test]
    fn image_of_one_value_is_unchanged_by_auto_contrast_and_equalize() {
        assert_eq!(after(&[7; 600], auto_contrast), [7; 600]);
        assert_eq!(after(&[7; 600], equalize), [7; 600]);
    }
}
