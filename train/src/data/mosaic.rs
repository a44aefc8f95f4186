//! Mosaic of images.
use super::image::Image;

/// Pixels between two images.
const GAP: usize = 2;
/// Grey value between the images.
const BACKGROUND: u8 = 128;

/// Arranges images in rows of `columns`, RGB; every cell has the size of the largest image.
pub fn mosaic(images: &[Image], columns: usize) -> Image {
    let extent = |axis: usize| images.iter().map(|image| image.size[axis]).max().unwrap_or(0) + GAP;
    let (cell_h, cell_w) = (extent(0), extent(1));
    let columns = columns.clamp(1, images.len().max(1));
    let (height, width) = (images.len().div_ceil(columns) * cell_h + GAP, columns * cell_w + GAP);
    let mut pixels = vec![BACKGROUND; height * width * 3];
    for (i, image) in images.iter().enumerate() {
        let image = image.clone().with_channels(3);
        let (top, left) = (GAP + i / columns * cell_h, GAP + i % columns * cell_w);
        for (y, row) in image.pixels.chunks_exact(image.size[1] * 3).enumerate() {
            pixels[((top + y) * width + left) * 3..][..row.len()].copy_from_slice(row);
        }
    }
    Image { size: [height, width, 3], pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_arranged_in_rows_with_gaps() {
        let image = |value: u8| Image { size: [1, 2, 1], pixels: vec![value; 2] };
        let mosaic = mosaic(&[image(1), image(2), image(3)], 2);
        assert_eq!(mosaic.size, [2 * 3 + 2, 2 * 4 + 2, 3]);
        let at = |y: usize, x: usize| mosaic.pixels[(y * 10 + x) * 3];
        assert_eq!((at(2, 2), at(2, 6), at(5, 2), at(5, 6), at(0, 0)), (1, 2, 3, BACKGROUND, BACKGROUND));
    }
}
