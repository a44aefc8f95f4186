//! Random resized crop (Szegedy et al., 2015): a box of random area and aspect ratio.
use super::RandomSource;
use fornax_engine::ImageBox;

/// Attempts at a box inside of the image.
const ATTEMPTS: usize = 10;

/// Ranges of a random crop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomResizedCrop {
    /// Smallest and largest area of the crop, as a fraction of the image's.
    pub scale: [f64; 2],
    /// Smallest and largest aspect ratio of the crop, width / height.
    pub ratio: [f64; 2],
}

impl RandomResizedCrop {
    /// Samples a box of an image of this height and width: its area uniformly, its aspect ratio uniformly on a logarithmic scale. If no
    /// attempt fits, it is the [central box](RandomResizedCrop::central_box).
    pub fn sample_box(&self, [h, w]: [usize; 2], rng: &mut dyn RandomSource) -> ImageBox {
        let (area, [low, high]) = ((h * w) as f64, self.ratio);
        for _ in 0..ATTEMPTS {
            let target = rng.between(self.scale[0], self.scale[1]) * area;
            let aspect = rng.between(low.ln(), high.ln()).exp();
            let [height, width] = [rounded(target / aspect), rounded(target * aspect)];
            if height <= h && width <= w {
                let (top, left) = (rng.integer(0, h - height), rng.integer(0, w - width));
                return image_box([top, left], [height, width]);
            }
        }
        self.central_box([h, w])
    }

    /// The largest box in the centre of an image with the nearest aspect ratio in range.
    pub fn central_box(&self, [h, w]: [usize; 2]) -> ImageBox {
        let [low, high] = self.ratio;
        let ratio = w as f64 / h as f64;
        let side = |length: f64, limit: usize| (length.round_ties_even() as usize).clamp(1, limit);
        let [height, width] = match ratio {
            r if r < low => [side(w as f64 / low, h), w],
            r if r > high => [h, side(h as f64 * high, w)],
            _ => [h, w],
        };
        image_box([(h - height) / 2, (w - width) / 2], [height, width])
    }
}

/// Side of the square of this area, at least one pixel; the root is of an area times or over an aspect ratio.
fn rounded(area: f64) -> usize {
    (area.sqrt().round_ties_even() as usize).max(1)
}

/// The box with this upper left corner, height and width.
pub(super) fn image_box([top, left]: [usize; 2], [height, width]: [usize; 2]) -> ImageBox {
    let [top, bottom, left, right] = [top, top + height, left, left + width].map(|side| side as u32);
    ImageBox { top, bottom, left, right }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::random::{RngKey, RngStream};

    #[test]
    fn boxes_are_inside_of_images_of_any_size() {
        let crop = RandomResizedCrop { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] };
        for (sample, size) in [[1, 1], [1, 50], [50, 1], [3, 2], [375, 500]].into_iter().enumerate() {
            let mut rng = RngStream::new(RngKey::new(1, "crop"), 0, sample as u64);
            for _ in 0..200 {
                let crop = crop.sample_box(size, &mut rng);
                assert!(crop.area() > 0 && crop.bottom as usize <= size[0] && crop.right as usize <= size[1]);
            }
        }
    }
}
