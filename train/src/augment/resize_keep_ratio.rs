//! Crops of an image that is resized with nearly its aspect ratio: timm's crop modes `rkrc` and `rkrr`.
use super::image_ops::reflect;
use super::{RandomSource, TrainInterpolation};
use crate::data::Image;
use crate::data::eval_transform::check_size;
use crate::data::resize::resize;

/// Random resizing that fits the short side to the output, then a crop, padded by reflection where the image is smaller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ResizeKeepRatio {
    /// Smallest and largest area that the crop sees, as a fraction; applied to half of the images.
    pub scale: [f64; 2],
    /// Smallest and largest change of the aspect ratio; applied to half of the images.
    pub ratio: [f64; 2],
    /// Crop at a random position (`rkrr`) instead of the centre (`rkrc`).
    pub random_crop: bool,
}

/// Probability of a random scale, and of a random aspect ratio.
const PROB: f64 = 0.5;

impl ResizeKeepRatio {
    /// Samples the height and width that an image is resized to before the crop to `output`.
    pub fn sample_size(
        &self,
        image: [usize; 2],
        output: [usize; 2],
        rng: &mut dyn RandomSource,
    ) -> [usize; 2] {
        let ratios = [0, 1].map(|axis| image[axis] as f64 / output[axis] as f64);
        let ratio = ratios[0].min(ratios[1]);
        let mut factors = [1.0; 2];
        if rng.chance(PROB) {
            factors = [1.0 / rng.between(self.scale[0], self.scale[1]).sqrt(); 2];
        }
        if rng.chance(PROB) {
            let aspect = rng.between(self.ratio[0].ln(), self.ratio[1].ln()).exp().sqrt();
            factors = [factors[0] / aspect, factors[1] * aspect];
        }
        [0, 1].map(|axis| ((image[axis] as f64 * factors[axis] / ratio).round_ties_even() as usize).max(1))
    }

    /// Resizes and crops an image to `output`.
    pub(super) fn apply(
        &self,
        image: &Image,
        output: [usize; 2],
        interpolation: TrainInterpolation,
        rng: &mut dyn RandomSource,
    ) -> Result<Image, String> {
        let [h, w, _] = image.size;
        let size = self.sample_size([h, w], output, rng);
        check_size([h, w], size)?;
        let resized = resize(image, size, interpolation.sample(rng));
        let starts = [0, 1].map(|axis| {
            let (has, wants) = (size[axis] as isize, output[axis] as isize);
            let gap = (has - wants).unsigned_abs();
            match (self.random_crop, has >= wants) {
                (true, crop) => rng.integer(0, gap) as isize * if crop { 1 } else { -1 },
                (false, true) => (gap as f64 / 2.0).round_ties_even() as isize,
                (false, false) => -(gap as isize / 2),
            }
        });
        Ok(crop_with_reflection(&resized, starts, output))
    }
}

/// The part of an image from `[top, left]` on; positions outside of the image are reflected at its border.
fn crop_with_reflection(image: &Image, [top, left]: [isize; 2], [height, width]: [usize; 2]) -> Image {
    let [h, w, c] = image.size;
    let columns: Vec<usize> = (0..width).map(|x| reflect(left + x as isize, w) * c).collect();
    let mut pixels = Vec::with_capacity(height * width * c);
    for y in 0..height {
        let row = &image.pixels[reflect(top + y as isize, h) * w * c..][..w * c];
        columns.iter().for_each(|column| pixels.extend_from_slice(&row[*column..][..c]));
    }
    Image { size: [height, width, c], pixels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::resize::ResizeFilter;
    use fornax_engine::random::{RngKey, RngStream};

    #[test]
    fn image_smaller_than_the_crop_is_reflected() {
        let image = Image { size: [1, 3, 1], pixels: vec![1, 2, 3] };
        assert_eq!(crop_with_reflection(&image, [0, -2], [1, 6]).pixels, [3, 2, 1, 2, 3, 2]);
    }

    #[test]
    fn results_have_the_output_size_for_any_image() {
        let ranges =
            |random_crop| ResizeKeepRatio { scale: [0.8, 1.0], ratio: [0.9, 1.0 / 0.9], random_crop };
        for (random_crop, size) in
            [(false, [40, 90, 3]), (true, [90, 40, 3]), (true, [3, 3, 1]), (false, [1, 9, 1])]
        {
            let image = Image { size, pixels: vec![7; size.iter().product()] };
            for sample in 0..20 {
                let mut rng = RngStream::new(RngKey::new(1, "crop"), 0, sample);
                let filter = TrainInterpolation::Fixed(ResizeFilter::Bilinear);
                let cropped = ranges(random_crop).apply(&image, [32, 24], filter, &mut rng).expect("small");
                assert_eq!((cropped.size, cropped.pixels.len()), ([32, 24, size[2]], 32 * 24 * size[2]));
                assert!(cropped.pixels.iter().all(|v| *v == 7));
            }
        }
        let line = Image { size: [1, 100_000, 1], pixels: vec![0; 100_000] };
        let mut rng = RngStream::new(RngKey::new(1, "crop"), 0, 0);
        assert!(
            ranges(true).apply(&line, [224, 224], TrainInterpolation::Random, &mut rng).is_err(),
            "too wide"
        );
    }
}
