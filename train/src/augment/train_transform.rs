//! Training transform by timm's options: crop, flips, policy or colour jitter, grayscale, blur, in this order.
use super::color_jitter::ColorJitter;
use super::image_ops;
use super::policies::{AutoAugment, Policy, PolicyContext};
use super::random_resized_crop::RandomResizedCrop;
use super::resize_keep_ratio::ResizeKeepRatio;
use super::{ImageTransform, RandomSource};
use crate::data::Image;
use crate::data::decode::{DecodeOptions, RegionDecoder};
use crate::data::eval_transform::mean_colour;
use crate::data::resize::{Resize, ResizeFilter, resize};
use crate::{Error, Result};
use clap::ValueEnum;
use fornax_engine::random::RngStream;
use std::fmt;
use std::str::FromStr;

/// Crop of training images, by timm's name.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrainCropMode {
    /// Random resized crop
    #[default]
    Rrc,
    /// Resize with nearly the aspect ratio, crop the centre
    Rkrc,
    /// Resize with nearly the aspect ratio, crop at random
    Rkrr,
    /// Resize both sides to the input size, then shift by up to `shift` pixels
    Shift,
}

/// Resampling filter of training images: timm's `--train-interpolation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrainInterpolation {
    /// Bilinear or bicubic, chosen per image.
    #[default]
    Random,
    /// One filter.
    Fixed(ResizeFilter),
}

/// Options of the training transform, by timm's names.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformOptions {
    /// Height and width of the results.
    pub size: [usize; 2],
    /// Only resize both sides to the input size.
    pub no_aug: bool,
    /// Crop mode.
    pub train_crop_mode: TrainCropMode,
    /// Smallest and largest area of the crop, as a fraction; by default 0.08 to 1, for `rkrc` and `rkrr` 0.8 to 1.
    pub scale: Option<[f64; 2]>,
    /// Smallest and largest aspect ratio of the crop; by default 3/4 to 4/3. For `rkrc` and `rkrr` the change of the aspect ratio, by default
    /// 0.9 to 1/0.9.
    pub ratio: Option<[f64; 2]>,
    /// Probability of a horizontal flip.
    pub hflip: f64,
    /// Probability of a vertical flip.
    pub vflip: f64,
    /// Colour jitter: none, one number for brightness, contrast and saturation, one for each, or these and the hue. Without effect beside a
    /// policy that [does not allow](AutoAugment::allows_color_jitter) it.
    pub color_jitter: Vec<f32>,
    /// Probability of colour jitter; always if `None`.
    pub color_jitter_prob: Option<f64>,
    /// Probability of conversion to grey.
    pub grayscale_prob: f64,
    /// Probability of a Gaussian blur of 23 pixels with a standard deviation of 0.1 to 2.
    pub gaussian_blur_prob: f64,
    /// Augmentation policy.
    pub auto_augment: Option<AutoAugment>,
    /// Resampling filter.
    pub interpolation: TrainInterpolation,
    /// Mean of each channel, for values in `0..=1`: the colour of uncovered pixels.
    pub mean: Vec<f32>,
    /// Number of results per image, of which the first is only cropped and flipped; 0 for one result with all parts.
    pub num_aug_splits: usize,
    /// Maximum shift along each axis in pixels, in crop mode `shift`.
    pub shift: u32,
}

impl Default for TransformOptions {
    fn default() -> TransformOptions {
        TransformOptions {
            size: [224, 224],
            no_aug: false,
            train_crop_mode: TrainCropMode::Rrc,
            scale: None,
            ratio: None,
            hflip: 0.5,
            vflip: 0.0,
            color_jitter: vec![0.4],
            color_jitter_prob: None,
            grayscale_prob: 0.0,
            gaussian_blur_prob: 0.0,
            auto_augment: None,
            interpolation: TrainInterpolation::Random,
            mean: vec![0.485, 0.456, 0.406],
            num_aug_splits: 0,
            shift: 0,
        }
    }
}

/// Training transform.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainTransform {
    size: [usize; 2],
    crop: TrainCrop,
    /// Probabilities of a vertical and of a horizontal flip.
    flips: [f64; 2],
    policy: Option<(AutoAugment, PolicyContext)>,
    /// Colour jitter and its probability.
    color_jitter: Option<(ColorJitter, f64)>,
    grayscale_prob: f64,
    gaussian_blur_prob: f64,
    interpolation: TrainInterpolation,
    splits: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum TrainCrop {
    RandomResized(RandomResizedCrop),
    KeepRatio(ResizeKeepRatio),
    Shift(u32),
}

/// Kernel size of the Gaussian blur, and the range of its standard deviation.
const BLUR_KERNEL: usize = 23;
const BLUR_SIGMA: [f64; 2] = [0.1, 2.0];

impl TransformOptions {
    /// Builds the transform. Errors if an option is out of range.
    pub fn train_transform(&self) -> Result<TrainTransform> {
        self.check().map_err(|(option, why)| {
            Error::usage("the training transform cannot be built").at(format!("--{option}")).because(why)
        })?;
        let crop = self.crop();
        let transform = TrainTransform {
            size: self.size,
            crop,
            flips: [self.vflip, self.hflip],
            policy: None,
            color_jitter: None,
            grayscale_prob: self.grayscale_prob,
            gaussian_blur_prob: self.gaussian_blur_prob,
            interpolation: self.interpolation,
            splits: self.num_aug_splits.max(1),
        };
        if self.no_aug {
            let fixed = match self.interpolation {
                TrainInterpolation::Random => ResizeFilter::Bilinear,
                TrainInterpolation::Fixed(filter) => filter,
            };
            return Ok(TrainTransform {
                crop: TrainCrop::Shift(0),
                flips: [0.0; 2],
                grayscale_prob: 0.0,
                gaussian_blur_prob: 0.0,
                interpolation: TrainInterpolation::Fixed(fixed),
                ..transform
            });
        }
        let jitters = self.auto_augment.as_ref().is_none_or(AutoAugment::allows_color_jitter);
        let jitter = ColorJitter::from_factors(&self.color_jitter).ok().flatten().filter(|_| jitters);
        Ok(TrainTransform {
            policy: self.auto_augment.clone().map(|policy| {
                let context = self.policy_context(&policy);
                (policy, context)
            }),
            color_jitter: jitter.map(|jitter| (jitter, self.color_jitter_prob.unwrap_or(1.0))),
            ..transform
        })
    }

    fn crop(&self) -> TrainCrop {
        let keep_ratio = |random_crop| {
            TrainCrop::KeepRatio(ResizeKeepRatio {
                scale: self.scale.unwrap_or([0.8, 1.0]),
                ratio: self.ratio.unwrap_or([0.9, 1.0 / 0.9]),
                random_crop,
            })
        };
        match self.train_crop_mode {
            TrainCropMode::Rrc => TrainCrop::RandomResized(RandomResizedCrop {
                scale: self.scale.unwrap_or([0.08, 1.0]),
                ratio: self.ratio.unwrap_or([3.0 / 4.0, 4.0 / 3.0]),
            }),
            TrainCropMode::Rkrc => keep_ratio(false),
            TrainCropMode::Rkrr => keep_ratio(true),
            TrainCropMode::Shift => TrainCrop::Shift(self.shift),
        }
    }

    fn policy_context(&self, policy: &AutoAugment) -> PolicyContext {
        PolicyContext {
            fill: mean_colour(&self.mean),
            interpolation: self.interpolation,
            translate_const: (self.size[0].min(self.size[1]) as f64 * 0.45).floor(),
            translate_pct: if matches!(policy.policy(), Policy::AugMix(_)) { 0.3 } else { 0.45 },
        }
    }

    /// Option that is out of range, and why.
    fn check(&self) -> std::result::Result<(), (&'static str, String)> {
        let probabilities = [
            ("hflip", self.hflip),
            ("vflip", self.vflip),
            ("color-jitter-prob", self.color_jitter_prob.unwrap_or(1.0)),
            ("grayscale-prob", self.grayscale_prob),
            ("gaussian-blur-prob", self.gaussian_blur_prob),
        ];
        for (option, p) in probabilities {
            if !(0.0..=1.0).contains(&p) {
                return Err((option, format!("it is {p}; a probability from 0 to 1 is accepted")));
            }
        }
        for (option, range, limit) in [("scale", self.scale, 1.0), ("ratio", self.ratio, f64::MAX)] {
            if let Some([low, high]) = range
                && !(0.0 < low && low <= high && high <= limit)
            {
                let most = if limit == 1.0 { ", at most 1," } else { "" };
                return Err((
                    option,
                    format!(
                        "it is {low} {high}; two positive numbers{most} in increasing order are accepted"
                    ),
                ));
            }
        }
        if self.size.contains(&0) {
            return Err(("img-size", format!("it is {:?}; both sides must be above 0", self.size)));
        }
        if self.shift > 0 && self.train_crop_mode != TrainCropMode::Shift {
            return Err(("shift", "it has an effect only with train-crop-mode shift".into()));
        }
        if self.num_aug_splits == 1 {
            return Err(("aug-splits", "it is 1; 0 or at least 2 splits are accepted".into()));
        }
        if self.num_aug_splits > 1 && self.no_aug {
            return Err(("aug-splits", "the splits are augmented, which no-aug switches off".into()));
        }
        ColorJitter::from_factors(&self.color_jitter).map_err(|why| ("color-jitter", why))?;
        match (&self.auto_augment, self.interpolation) {
            (Some(_), TrainInterpolation::Fixed(filter))
                if !matches!(
                    filter,
                    ResizeFilter::Nearest | ResizeFilter::Bilinear | ResizeFilter::Bicubic
                ) =>
            {
                let why = format!(
                    "policies rotate and shear with nearest, bilinear, bicubic or random, not {filter:?}"
                );
                Err(("train-interpolation", why))
            }
            _ => Ok(()),
        }
    }
}

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

impl TrainInterpolation {
    /// The filter of one image.
    pub fn sample(self, rng: &mut dyn RandomSource) -> ResizeFilter {
        match self {
            TrainInterpolation::Random if rng.chance(0.5) => ResizeFilter::Bilinear,
            TrainInterpolation::Random => ResizeFilter::Bicubic,
            TrainInterpolation::Fixed(filter) => filter,
        }
    }
}

impl FromStr for TrainInterpolation {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<TrainInterpolation, String> {
        match name {
            "random" => Ok(TrainInterpolation::Random),
            _ => ResizeFilter::from_str(name, false).map(TrainInterpolation::Fixed).map_err(|_| {
                let filters = ResizeFilter::value_variants().iter().filter_map(ValueEnum::to_possible_value);
                let names: Vec<String> = filters.map(|value| value.get_name().into()).collect();
                format!("`{name}` is not a filter; use random, {}", names.join(", "))
            }),
        }
    }
}

impl fmt::Display for TrainInterpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrainInterpolation::Random => f.write_str("random"),
            TrainInterpolation::Fixed(filter) => {
                f.write_str(filter.to_possible_value().expect("every filter has a name").get_name())
            }
        }
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
    use super::*;
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

    #[test]
    fn invalid_options_are_rejected_by_name() {
        let policy = Some("rand-m9".parse().expect("known"));
        for (options, option) in [
            (TransformOptions { hflip: 1.5, ..plain() }, "hflip"),
            (TransformOptions { scale: Some([0.5, 0.1]), ..plain() }, "scale"),
            (TransformOptions { ratio: Some([0.0, 1.0]), ..plain() }, "ratio"),
            (TransformOptions { shift: 2, ..plain() }, "shift"),
            (TransformOptions { num_aug_splits: 1, ..plain() }, "aug-splits"),
            (TransformOptions { num_aug_splits: 2, no_aug: true, ..plain() }, "aug-splits"),
            (TransformOptions { color_jitter: vec![0.1, 0.2], ..plain() }, "color-jitter"),
            (TransformOptions { size: [0, 5], ..plain() }, "img-size"),
            (
                TransformOptions {
                    auto_augment: policy,
                    interpolation: TrainInterpolation::Fixed(ResizeFilter::Lanczos),
                    ..plain()
                },
                "train-interpolation",
            ),
        ] {
            let error = options.train_transform().expect_err(option).to_string();
            assert!(error.contains(option), "{error}");
        }
    }

    #[test]
    fn interpolation_is_read_from_its_name() {
        assert_eq!("random".parse(), Ok(TrainInterpolation::Random));
        assert_eq!("bicubic".parse(), Ok(TrainInterpolation::Fixed(ResizeFilter::Bicubic)));
        assert_eq!(TrainInterpolation::Fixed(ResizeFilter::Lanczos).to_string(), "lanczos");
        let error = "cubic".parse::<TrainInterpolation>().expect_err("unknown");
        assert!(error.contains("`cubic`") && error.contains("random, nearest, bilinear, bicubic"), "{error}");
    }
}
