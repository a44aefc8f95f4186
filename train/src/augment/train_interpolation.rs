//! Resampling filter of training images.
use super::RandomSource;
use crate::data::resize::ResizeFilter;
use clap::ValueEnum;
use std::fmt;
use std::str::FromStr;

/// Resampling filter of training images: timm's `--train-interpolation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrainInterpolation {
    /// Bilinear or bicubic, chosen per image.
    #[default]
    Random,
    /// One filter.
    Fixed(ResizeFilter),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpolation_is_read_from_its_name() {
        assert_eq!("random".parse(), Ok(TrainInterpolation::Random));
        assert_eq!("bicubic".parse(), Ok(TrainInterpolation::Fixed(ResizeFilter::Bicubic)));
        assert_eq!(TrainInterpolation::Fixed(ResizeFilter::Lanczos).to_string(), "lanczos");
        let error = "cubic".parse::<TrainInterpolation>().expect_err("unknown");
        assert!(error.contains("`cubic`") && error.contains("random, nearest, bilinear, bicubic"), "{error}");
    }
}
