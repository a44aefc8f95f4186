//! Options of the training transform, and the transform that they describe.
use super::TrainInterpolation;
use super::color_jitter::ColorJitter;
use super::policies::{AutoAugment, Policy, PolicyContext};
use super::random_resized_crop::RandomResizedCrop;
use super::resize_keep_ratio::ResizeKeepRatio;
use super::train_transform::{TrainCrop, TrainTransform};
use crate::data::eval_transform::mean_colour;
use crate::data::resize::ResizeFilter;
use crate::{Error, Result};
use clap::ValueEnum;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_options_are_rejected_by_name() {
        let policy = Some("rand-m9".parse().expect("known"));
        for (options, option) in [
            (TransformOptions { hflip: 1.5, ..TransformOptions::default() }, "hflip"),
            (TransformOptions { scale: Some([0.5, 0.1]), ..TransformOptions::default() }, "scale"),
            (TransformOptions { ratio: Some([0.0, 1.0]), ..TransformOptions::default() }, "ratio"),
            (TransformOptions { shift: 2, ..TransformOptions::default() }, "shift"),
            (TransformOptions { num_aug_splits: 1, ..TransformOptions::default() }, "aug-splits"),
            (
                TransformOptions { num_aug_splits: 2, no_aug: true, ..TransformOptions::default() },
                "aug-splits",
            ),
            (
                TransformOptions { color_jitter: vec![0.1, 0.2], ..TransformOptions::default() },
                "color-jitter",
            ),
            (TransformOptions { size: [0, 5], ..TransformOptions::default() }, "img-size"),
            (
                TransformOptions {
                    auto_augment: policy,
                    interpolation: TrainInterpolation::Fixed(ResizeFilter::Lanczos),
                    ..TransformOptions::default()
                },
                "train-interpolation",
            ),
        ] {
            let error = options.train_transform().expect_err(option).to_string();
            assert!(error.contains(option), "{error}");
        }
    }
}
