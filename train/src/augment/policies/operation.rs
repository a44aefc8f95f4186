//! Operations of policies by timm's names, and the arguments that follow from a magnitude.
use super::PolicyContext;
use crate::augment::{RandomSource, image_ops};
use crate::data::Image;
use crate::data::resize::ResizeFilter;
use std::str::FromStr;

/// Magnitude of full strength.
pub const FULL_MAGNITUDE: f64 = 10.0;

/// Declares the operations, whose names are those of the variants.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Operation of a policy, by timm's name. The strength of most grows with the magnitude; in the `Increasing` variants of an
        /// operation it always does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum PolicyOp {
            $($(#[$doc])* $name,)+
        }

        impl PolicyOp {
            /// All operations.
            pub const ALL: &[PolicyOp] = &[$(PolicyOp::$name),+];

            /// Name in configurations and policies.
            pub fn name(self) -> &'static str {
                match self {
                    $(PolicyOp::$name => stringify!($name),)+
                }
            }
        }
    };
}

operations! {
    /// Stretch each channel to the full range.
    AutoContrast,
    /// Flatten the histogram of each channel.
    Equalize,
    /// Negative image.
    Invert,
    /// Rotation by up to 30 degrees.
    Rotate,
    /// Keep 0 to 4 bits: fewer at a low magnitude.
    Posterize,
    /// Keep 4 to 0 bits.
    PosterizeIncreasing,
    /// Keep 4 to 8 bits.
    PosterizeOriginal,
    /// Invert values above a threshold from 0 to 256.
    Solarize,
    /// Invert values above a threshold from 256 to 0.
    SolarizeIncreasing,
    /// Add up to 110 to values below 128.
    SolarizeAdd,
    /// Saturation by a factor from 0.1 to 1.9.
    Color,
    /// Saturation by a factor up to 0.9 from 1.
    ColorIncreasing,
    /// Contrast by a factor from 0.1 to 1.9.
    Contrast,
    /// Contrast by a factor up to 0.9 from 1.
    ContrastIncreasing,
    /// Brightness by a factor from 0.1 to 1.9.
    Brightness,
    /// Brightness by a factor up to 0.9 from 1.
    BrightnessIncreasing,
    /// Sharpness by a factor from 0.1 to 1.9.
    Sharpness,
    /// Sharpness by a factor up to 0.9 from 1.
    SharpnessIncreasing,
    /// Horizontal shear by up to 0.3.
    ShearX,
    /// Vertical shear by up to 0.3.
    ShearY,
    /// Horizontal shift in pixels.
    TranslateX,
    /// Vertical shift in pixels.
    TranslateY,
    /// Horizontal shift as a fraction of the width.
    TranslateXRel,
    /// Vertical shift as a fraction of the height.
    TranslateYRel,
    /// Reduce the saturation by 0.5 to 1.
    Desaturate,
    /// Gaussian blur with a radius from 0.1 to 2.
    GaussianBlur,
    /// Gaussian blur with a random radius from 0.1 to at most 2.
    GaussianBlurRand,
}

impl FromStr for PolicyOp {
    type Err = String;

    fn from_str(name: &str) -> Result<PolicyOp, String> {
        let known = || PolicyOp::ALL.iter().map(|op| op.name()).collect::<Vec<_>>().join(", ");
        let op = PolicyOp::ALL.iter().find(|op| op.name() == name);
        op.copied().ok_or_else(|| format!("`{name}` is not an operation; operations are {}", known()))
    }
}

impl PolicyOp {
    /// Argument of the operation for a magnitude (0 to 10, or above), with random sign and radius; `None` if it takes no argument. The sign
    /// is negative where the random number is above 0.5.
    pub fn argument(
        self,
        magnitude: f64,
        context: &PolicyContext,
        rng: &mut dyn RandomSource,
    ) -> Option<f64> {
        let level = magnitude / FULL_MAGNITUDE;
        let mut signed = |value: f64| if rng.uniform() > 0.5 { -value } else { value };
        let bits = || (level * 4.0).floor();
        let threshold = || (level * 256.0).floor().min(256.0);
        let limited = |low: f64, high: f64| (low + (high - low) * level).clamp(low, high);
        Some(match self {
            PolicyOp::AutoContrast | PolicyOp::Equalize | PolicyOp::Invert => return None,
            PolicyOp::Rotate => signed(level * 30.0),
            PolicyOp::Posterize => bits(),
            PolicyOp::PosterizeIncreasing => 4.0 - bits(),
            PolicyOp::PosterizeOriginal => bits() + 4.0,
            PolicyOp::Solarize => threshold(),
            PolicyOp::SolarizeIncreasing => 256.0 - threshold(),
            PolicyOp::SolarizeAdd => (level * 110.0).floor().min(128.0),
            PolicyOp::Color | PolicyOp::Contrast | PolicyOp::Brightness | PolicyOp::Sharpness => {
                level * 1.8 + 0.1
            }
            PolicyOp::ColorIncreasing
            | PolicyOp::ContrastIncreasing
            | PolicyOp::BrightnessIncreasing
            | PolicyOp::SharpnessIncreasing => (1.0 + signed(level * 0.9)).max(0.1),
            PolicyOp::ShearX | PolicyOp::ShearY => signed(level * 0.3),
            PolicyOp::TranslateX | PolicyOp::TranslateY => signed(level * context.translate_const),
            PolicyOp::TranslateXRel | PolicyOp::TranslateYRel => signed(level * context.translate_pct),
            PolicyOp::Desaturate => limited(0.5, 1.0),
            PolicyOp::GaussianBlur => limited(0.1, 2.0),
            PolicyOp::GaussianBlurRand => rng.between(0.1, 2.0 * limited(0.0, 1.0)),
        })
    }

    /// Applies the operation with its [argument](PolicyOp::argument), 0 for operations without one. `filter` interpolates where pixels
    /// move; uncovered pixels have the colour `fill`.
    pub fn apply(self, image: &mut Image, argument: f64, filter: ResizeFilter, fill: &[u8]) {
        let [h, w, _] = image.size;
        let factor = argument as f32;
        let moved = |matrix| image_ops::transform(image, &matrix, filter, fill);
        match self {
            PolicyOp::AutoContrast => image_ops::auto_contrast(image),
            PolicyOp::Equalize => image_ops::equalize(image),
            PolicyOp::Invert => image_ops::invert(image),
            PolicyOp::Posterize | PolicyOp::PosterizeIncreasing | PolicyOp::PosterizeOriginal => {
                // Above full strength the number of bits would be negative.
                image_ops::posterize(image, argument.max(0.0) as u32);
            }
            PolicyOp::Solarize | PolicyOp::SolarizeIncreasing => {
                image_ops::solarize(image, argument as u32);
            }
            PolicyOp::SolarizeAdd => image_ops::solarize_add(image, argument as u32),
            PolicyOp::Color | PolicyOp::ColorIncreasing => image_ops::color(image, factor),
            PolicyOp::Desaturate => image_ops::color(image, (1.0 - argument).clamp(0.0, 1.0) as f32),
            PolicyOp::Contrast | PolicyOp::ContrastIncreasing => image_ops::contrast(image, factor),
            PolicyOp::Brightness | PolicyOp::BrightnessIncreasing => image_ops::brightness(image, factor),
            PolicyOp::Sharpness | PolicyOp::SharpnessIncreasing => image_ops::sharpness(image, factor),
            PolicyOp::GaussianBlur | PolicyOp::GaussianBlurRand => {
                image_ops::box_gaussian_blur(image, factor)
            }
            PolicyOp::Rotate => *image = moved(image_ops::rotation(argument, [h, w])),
            PolicyOp::ShearX => *image = moved([1.0, argument, 0.0, 0.0, 1.0, 0.0]),
            PolicyOp::ShearY => *image = moved([1.0, 0.0, 0.0, argument, 1.0, 0.0]),
            PolicyOp::TranslateX => *image = moved([1.0, 0.0, argument, 0.0, 1.0, 0.0]),
            PolicyOp::TranslateY => *image = moved([1.0, 0.0, 0.0, 0.0, 1.0, argument]),
            PolicyOp::TranslateXRel => *image = moved([1.0, 0.0, argument * w as f64, 0.0, 1.0, 0.0]),
            PolicyOp::TranslateYRel => *image = moved([1.0, 0.0, 0.0, 0.0, 1.0, argument * h as f64]),
        }
    }
}
