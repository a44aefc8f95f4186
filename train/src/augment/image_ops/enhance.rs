//! Colour, contrast, brightness and sharpness, as Pillow's `ImageEnhance`: blends of an image with a degenerate one.
use crate::data::Image;

/// Blend `from + factor * (to - from)` in f32, truncated; factors outside of 0..=1 extrapolate, clipped to bytes.
pub fn blend_value(from: u8, to: u8, factor: f32) -> u8 {
    // The conversion of floats to bytes truncates and clips.
    (f32::from(from) + factor * (f32::from(to) - f32::from(from))) as u8
}

/// Blends an image with another of its size: 0 gives the image, 1 the other.
pub fn blend(image: &mut Image, other: &Image, factor: f32) {
    for (from, to) in image.pixels.iter_mut().zip(&other.pixels) {
        *from = blend_value(*from, *to, factor);
    }
}

/// Grey value by ITU-R 601 weights.
fn luma(pixel: &[u8]) -> u8 {
    match pixel {
        [r, g, b] => {
            ((u32::from(*r) * 19595 + u32::from(*g) * 38470 + u32::from(*b) * 7471 + 0x8000) >> 16) as u8
        }
        _ => pixel[0],
    }
}

/// Converts to grey, with the number of channels as before.
pub fn grayscale(image: &mut Image) {
    for pixel in image.pixels.chunks_exact_mut(image.size[2]) {
        let grey = luma(pixel);
        pixel.fill(grey);
    }
}

/// Colour saturation: 0 gives a grey image, 1 the image itself.
pub fn color(image: &mut Image, factor: f32) {
    for pixel in image.pixels.chunks_exact_mut(image.size[2]) {
        let grey = luma(pixel);
        pixel.iter_mut().for_each(|value| *value = blend_value(grey, *value, factor));
    }
}

/// Contrast: 0 gives an image of the mean grey value, 1 the image itself.
pub fn contrast(image: &mut Image, factor: f32) {
    let channels = image.size[2];
    let sum: u64 = image.pixels.chunks_exact(channels).map(|pixel| u64::from(luma(pixel))).sum();
    let mean = (sum as f64 / (image.pixels.len() / channels) as f64 + 0.5) as u8;
    image.pixels.iter_mut().for_each(|value| *value = blend_value(mean, *value, factor));
}

/// Brightness: 0 gives a black image, 1 the image itself.
pub fn brightness(image: &mut Image, factor: f32) {
    image.pixels.iter_mut().for_each(|value| *value = blend_value(0, *value, factor));
}

/// Sharpness: 0 gives a smoothed image, 1 the image itself.
pub fn sharpness(image: &mut Image, factor: f32) {
    let mut smoothed = smooth(image);
    blend(&mut smoothed, image, factor);
    *image = smoothed;
}

/// Mean over 3×3 pixels, of which the centre counts five times; pixels at the border are unchanged.
fn smooth(image: &Image) -> Image {
    let [h, w, c] = image.size;
    let mut smoothed = image.clone();
    if h < 3 || w < 3 {
        return smoothed;
    }
    let (side, centre) = (1.0f32 / 13.0, 5.0f32 / 13.0);
    let stride = w * c;
    for y in 1..h - 1 {
        let rows: [&[u8]; 3] = std::array::from_fn(|i| &image.pixels[(y - 1 + i) * stride..][..stride]);
        let out = &mut smoothed.pixels[y * stride..][..stride];
        for i in c..stride - c {
            let three = |row: &[u8], middle: f32| {
                f32::from(row[i - c]) * side + f32::from(row[i]) * middle + f32::from(row[i + c]) * side
            };
            out[i] = (0.5 + three(rows[2], side) + three(rows[1], centre) + three(rows[0], side)) as u8;
        }
    }
    smoothed
}
