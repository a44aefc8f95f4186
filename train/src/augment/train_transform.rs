//! Training transform by timm's options: crop, flips, policy or colour jitter, grayscale, blur, in this order.
use super::color_jitter::ColorJitter;
use super::image_ops;
use super::policies::{AutoAugment, PolicyContext};
use super::random_resized_crop::RandomResizedCrop;
use super::resize_keep_ratio::ResizeKeepRatio;
use super::{ImageTransform, RandomSource, TrainInterpolation};
use crate::data::Image;
use crate::data::decode::{DecodeOptions, RegionDecoder};
use crate::data::resize::{Resize, resize};
use fornax_engine::random::RngStream;

/// Training transform.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainTransform {
    pub(super) size: [usize; 2],
    pub(super) crop: TrainCrop,
    /// Probabilities of a vertical and of a horizontal flip.
    pub(super) flips: [f64; 2],
    pub(super) policy: Option<(AutoAugment, PolicyContext)>,
    /// Colour jitter and its probability.
    pub(super) color_jitter: Option<(ColorJitter, f64)>,
    pub(super) grayscale_prob: f64,
    pub(super) gaussian_blur_prob: f64,
    pub(super) interpolation: TrainInterpolation,
    pub(super) splits: usize,
}

/// Crop and resize of a training image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TrainCrop {
    RandomResized(RandomResizedCrop),
    KeepRatio(ResizeKeepRatio),
    Shift(u32),
}

/// Kernel size of the Gaussian blur, and the range of its standard deviation.
const BLUR_KERNEL: usize = 23;
const BLUR_SIGMA: [f64; 2] = [0.1, 2.0];

impl TrainTransform {
    /// Crops, resizes and flips an image.
    fn crop_and_flip(&self, image: &Image, rng: &mut dyn RandomSource) -> std::result::Result<Image, String> {
        match self.crop {
            TrainCrop::RandomResized(ranges) => Ok(self.sample_resize(ranges, image.size, rng).apply(image)),
            TrainCrop::KeepRatio(ranges) => {
                let mut cropped = ranges.apply(image, self.size, self.interpolation, rng)?;
                let flips = self.sample_flips(rng);
                flip(&mut cropped, flips);
                Ok(cropped)
            }
            TrainCrop::Shift(most) => {
                let resized = resize(image, self.size, self.interpolation.sample(rng));
                let mut shifted = if most > 0 { shift(&resized, most, rng) } else { resized };
                let flips = self.sample_flips(rng);
                flip(&mut shifted, flips);
                Ok(shifted)
            }
        }
    }

    /// Samples the crop, the filter and the flips of an image.
    fn sample_resize(
        &self,
        ranges: RandomResizedCrop,
        size: [usize; 3],
        rng: &mut dyn RandomSource,
    ) -> Resize {
        let crop = ranges.sample_box([size[0], size[1]], rng);
        let filter = self.interpolation.sample(rng);
        // Flips reverse the order in which the pixels are computed.
        let reversed = self.sample_flips(rng);
        Resize { crop, reversed, ..Resize::new(size, self.size, filter) }
    }

    /// Samples the vertical and the horizontal flip.
    fn sample_flips(&self, rng: &mut dyn RandomSource) -> [bool; 2] {
        let [vertical, horizontal] = self.flips;
        let horizontal = horizontal > 0.0 && rng.chance(horizontal);
        [vertical > 0.0 && rng.chance(vertical), horizontal]
    }

    /// Makes the results of a cropped and flipped image.
    fn splits(&self, mut cropped: Image, rng: &mut dyn RandomSource) -> Vec<Image> {
        if self.splits == 1 {
            self.augment(&mut cropped, rng);
            return vec![cropped];
        }
        let mut results = vec![cropped; self.splits];
        results[1..].iter_mut().for_each(|result| self.augment(result, rng));
        results
    }

    /// Applies the parts after the flips.
    fn augment(&self, image: &mut Image, rng: &mut dyn RandomSource) {
        if let Some((policy, context)) = &self.policy {
            policy.apply(image, context, rng);
        }
        if let Some((jitter, prob)) = &self.color_jitter
            && (*prob >= 1.0 || rng.chance(*prob))
        {
            jitter.apply(image, rng);
        }
        if self.grayscale_prob > 0.0 && rng.chance(self.grayscale_prob) {
            image_ops::grayscale(image);
        }
        if self.gaussian_blur_prob > 0.0 && rng.chance(self.gaussian_blur_prob) {
            image_ops::gaussian_blur(image, BLUR_KERNEL, rng.between(BLUR_SIGMA[0], BLUR_SIGMA[1]));
        }
    }
}

impl ImageTransform for TrainTransform {
    fn output_size(&self) -> [usize; 2] {
        self.size
    }

    fn views(&self) -> usize {
        self.splits
    }

    fn apply(&self, image: &Image, rng: &mut RngStream) -> std::result::Result<Vec<Image>, String> {
        let cropped = self.crop_and_flip(image, rng)?;
        Ok(self.splits(cropped, rng))
    }

    fn apply_encoded(
        &self,
        bytes: &[u8],
        options: &DecodeOptions,
        rng: &mut RngStream,
    ) -> std::result::Result<Vec<Image>, String> {
        if let TrainCrop::RandomResized(ranges) = self.crop
            && let Some(decoder) = RegionDecoder::open(bytes, options)
        {
            let start = rng.clone();
            let resize = self.sample_resize(ranges, decoder.size(), rng);
            if let Some(region) = decoder.decode(resize.crop) {
                let resize = Resize {
                    reversed: resize.reversed,
                    ..Resize::new(region.size, self.size, resize.filter)
                };
                return Ok(self.splits(resize.apply(&region), rng));
            }
            *rng = start;
        }
        self.apply(&Image::decode_with(bytes, options)?, rng)
    }
}

/// Reverses the rows, and the columns, of an image.
fn flip(image: &mut Image, [vertical, horizontal]: [bool; 2]) {
    let [_, w, c] = image.size;
    if vertical {
        image.pixels = image.pixels.rchunks_exact(w * c).flatten().copied().collect();
    }
    if horizontal {
        let rows = image.pixels.chunks_exact(w * c);
        image.pixels = rows.flat_map(|row| row.rchunks_exact(c)).flatten().copied().collect();
    }
}

/// Shifts an image by up to `most` pixels along each axis; uncovered pixels are black.
fn shift(image: &Image, most: u32, rng: &mut dyn RandomSource) -> Image {
    let [h, w, c] = image.size;
    let mut sample = || rng.integer(0, 2 * most as usize) as isize - most as isize;
    let (dy, dx) = (sample(), sample());
    let mut shifted = Image { size: image.size, pixels: vec![0; image.pixels.len()] };
    // Columns of the result that are covered.
    let covered = dx.clamp(0, w as isize) as usize..(w as isize + dx).clamp(0, w as isize) as usize;
    for y in (0..h).filter(|y| (0..h as isize).contains(&(*y as isize - dy)) && !covered.is_empty()) {
        let from = ((y as isize - dy) * w as isize + covered.start as isize - dx) as usize * c;
        let length = covered.len() * c;
        shifted.pixels[(y * w + covered.start) * c..][..length]
            .copy_from_slice(&image.pixels[from..][..length]);
    }
    shifted
}

#[cfg(test)]
mod tests {
    use super::super::{TrainCropMode, TransformOptions};
    use super::*;
    use crate::data::resize::ResizeFilter;
    use clap::ValueEnum;
    use fornax_engine::random::RngKey;

    fn plain() -> TransformOptions {
        TransformOptions { size: [6, 5], hflip: 0.0, color_jitter: vec![], ..TransformOptions::default() }
    }

    fn image(size: [usize; 3]) -> Image {
        Image { size, pixels: (0..size.iter().product()).map(|i: usize| (i * 73 % 241) as u8).collect() }
    }

    fn apply(options: &TransformOptions, image: &Image, sample: u64) -> Vec<Image> {
        let transform = options.train_transform().expect("valid");
        let mut rng = RngStream::new(RngKey::new(1, "augment"), 0, sample);
        transform.apply(image, &mut rng).expect("an image")
    }

    #[test]
    fn results_have_the_output_size_in_every_crop_mode() {
        for mode in TrainCropMode::value_variants() {
            for size in [[20, 30, 3], [6, 5, 1], [1, 1, 3]] {
                let options = TransformOptions { train_crop_mode: *mode, ..plain() };
                let results = apply(&options, &image(size), 0);
                assert!(results.len() == 1 && results[0].size == [6, 5, size[2]], "{mode:?} {size:?}");
                assert_eq!(results[0].pixels.len(), 30 * size[2]);
            }
        }
    }

    #[test]
    fn flips_mirror_the_crop() {
        let image = image([20, 30, 3]);
        for mode in TrainCropMode::value_variants() {
            let unflipped = apply(&TransformOptions { train_crop_mode: *mode, ..plain() }, &image, 3);
            for (hflip, vflip) in [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
                let flipped =
                    apply(&TransformOptions { train_crop_mode: *mode, hflip, vflip, ..plain() }, &image, 3);
                let mut expected = unflipped[0].clone();
                flip(&mut expected, [vflip == 1.0, hflip == 1.0]);
                assert_eq!(flipped[0], expected, "{mode:?}");
            }
        }
        let mut small = Image { size: [2, 2, 2], pixels: (1..9).collect() };
        flip(&mut small, [false, true]);
        assert_eq!(small.pixels, [3, 4, 1, 2, 7, 8, 5, 6]);
        flip(&mut small, [true, false]);
        assert_eq!(small.pixels, [7, 8, 5, 6, 3, 4, 1, 2]);
    }

    #[test]
    fn no_aug_resizes_only() {
        let image = image([20, 30, 3]);
        let policy = Some("rand-m9-n5-p1".parse().expect("known"));
        let options = TransformOptions {
            no_aug: true,
            auto_augment: policy,
            grayscale_prob: 1.0,
            gaussian_blur_prob: 1.0,
            ..TransformOptions { size: [6, 5], vflip: 1.0, ..TransformOptions::default() }
        };
        assert_eq!(apply(&options, &image, 0), [resize(&image, [6, 5], ResizeFilter::Bilinear)]);
    }

    #[test]
    fn first_split_is_only_cropped_and_flipped() {
        let image = image([20, 30, 3]);
        let options = TransformOptions { hflip: 0.5, ..plain() };
        let splits = TransformOptions {
            num_aug_splits: 3,
            auto_augment: Some("augmix-m8".parse().expect("known")),
            ..options.clone()
        };
        for sample in 0..10 {
            let results = apply(&splits, &image, sample);
            assert_eq!((results.len(), splits.train_transform().expect("valid").views()), (3, 3));
            assert_eq!(results[0], apply(&options, &image, sample)[0]);
            assert!(results[1] != results[2]);
        }
    }

    #[test]
    fn color_jitter_is_left_out_beside_a_policy_but_3_augment() {
        let built = |policy: &str| {
            let auto_augment = Some(policy.parse().expect("known"));
            TransformOptions { auto_augment, ..TransformOptions::default() }.train_transform().expect("valid")
        };
        assert!(built("rand-m9").color_jitter.is_none() && built("3a").color_jitter.is_some());
        assert!(TransformOptions::default().train_transform().expect("valid").color_jitter.is_some());
    }

    #[test]
    fn grayscale_and_blur_are_applied_with_their_probability() {
        let image = image([20, 30, 3]);
        let clean = |sample| apply(&plain(), &image, sample);
        let count = |options: &TransformOptions| {
            (0..200).filter(|sample| apply(options, &image, *sample) != clean(*sample)).count()
        };
        assert!((30..75).contains(&count(&TransformOptions { grayscale_prob: 0.25, ..plain() })));
        assert!((75..125).contains(&count(&TransformOptions { gaussian_blur_prob: 0.5, ..plain() })));
    }

    #[test]
    fn shifts_cover_their_range_and_uncover_black_pixels() {
        let mut centre = Image { size: [5, 5, 1], pixels: vec![0; 25] };
        centre.pixels[12] = 9;
        let options =
            TransformOptions { size: [5, 5], train_crop_mode: TrainCropMode::Shift, shift: 1, ..plain() };
        let mut seen = [0; 25];
        for sample in 0..500 {
            let shifted = &apply(&options, &centre, sample)[0].pixels;
            seen[shifted.iter().position(|v| *v == 9).expect("still in view")] += 1;
        }
        let reached: Vec<usize> = (0..25).filter(|i| seen[*i] > 25).collect();
        assert_eq!(reached, [6, 7, 8, 11, 12, 13, 16, 17, 18]);
        let white = Image { size: [5, 5, 1], pixels: vec![255; 25] };
        let far = TransformOptions { shift: 9, ..options };
        assert!(
            (0..50).any(|sample| apply(&far, &white, sample)[0].pixels == [0; 25]),
            "shifted out of view"
        );
    }
}
