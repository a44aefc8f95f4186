//! Ranges of numeric settings. The command line, configuration files, checkpoints and the library check values against the same ranges.
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::ops::RangeBounds;

/// Range of the values of a numeric setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueRange {
    low: Bound<f64>,
    high: Bound<f64>,
    text: &'static str,
    /// Factor by which a value is usually off, and the unit of the range.
    mistake: Option<(f64, &'static str)>,
}

impl ValueRange {
    const fn new(low: Bound<f64>, high: Bound<f64>, text: &'static str) -> ValueRange {
        ValueRange { low, high, text, mistake: None }
    }

    /// The same range for fractions, which are mistaken for percentages.
    const fn of_fractions(self) -> ValueRange {
        ValueRange { mistake: Some((100.0, "it is a fraction")), ..self }
    }

    /// The same range for pixel values from 0 to 1, which are mistaken for values from 0 to 255.
    const fn of_pixels(self) -> ValueRange {
        ValueRange { mistake: Some((255.0, "pixel values are scaled to 0..1")), ..self }
    }

    /// True if a value is in the range; false for values that are not finite.
    pub fn contains(&self, value: f64) -> bool {
        value.is_finite() && (self.low, self.high).contains(&value)
    }

    /// The range in words, such as `above 0`.
    pub fn text(&self) -> &'static str {
        self.text
    }

    /// The value that was probably meant by one outside of the range: 0.95 by 95 in a range of fractions.
    pub fn hint(&self, value: f64) -> Option<String> {
        let (factor, unit) = self.mistake?;
        let meant = value / factor;
        let is_plausible = self.contains(meant) && (0.1..=1.0).contains(&meant);
        is_plausible.then(|| format!("{unit}: {}", (meant * 1e4).round() / 1e4))
    }

    /// The parser of a number in the range.
    pub(super) fn parser<N: Number>(self) -> impl Fn(&str) -> Result<N, String> + Clone {
        move |text| match N::exact(text) {
            None => Err(format!("must be a {}", N::DESCRIPTION)),
            Some(value) if !self.contains(value) => Err(format!("must be {}", self.text)),
            Some(_) => text.parse().map_err(|_| format!("must be at most {}", N::MAX)),
        }
    }
}

macro_rules! ranges {
    ($($name:ident = $low:expr, $high:expr, $text:literal $(, $mistake:ident)?;)*) => {
        $(pub(super) const $name: ValueRange = ValueRange::new($low, $high, $text)$(.$mistake())?;)*
    };
}

ranges! {
    POSITIVE = Excluded(0.0), Unbounded, "above 0";
    NON_NEGATIVE = Included(0.0), Unbounded, "0 or more";
    AT_LEAST_ONE = Included(1.0), Unbounded, "at least 1";
    PROBABILITY = Included(0.0), Included(1.0), "between 0 and 1", of_fractions;
    FRACTION = Excluded(0.0), Excluded(1.0), "above 0 and below 1", of_fractions;
    BELOW_ONE = Included(0.0), Excluded(1.0), "at least 0 and below 1", of_fractions;
    UP_TO_ONE = Excluded(0.0), Included(1.0), "above 0 and at most 1", of_fractions;
    // Optimizers that scale by norms, such as LARS, train at up to about 30.
    LR = Included(0.0), Included(1000.0), "between 0 and 1000";
    POSITIVE_LR = Excluded(0.0), Included(1000.0), "above 0 and at most 1000";
    // Above 1 the validation crop is larger than the resized image, and is padded.
    CROP_PCT = Excluded(0.0), Included(1.5), "above 0 and at most 1.5", of_fractions;
    // Resize scales of rkrc and rkrr may exceed 1.
    SCALE = Excluded(0.0), Included(4.0), "above 0 and at most 4", of_fractions;
    MEAN = Included(0.0), Included(1.0), "between 0 and 1", of_pixels;
    STD = Excluded(0.0), Included(255.0), "above 0 and at most 255";
    JITTER = Included(0.0), Included(2.0), "between 0 and 2", of_fractions;
    WORKER_COUNT = Included(0.0), Included(1024.0), "between 0 and 1024";
    ACCUMULATION_STEPS = Included(1.0), Included(4096.0), "between 1 and 4096";
    PREFETCHED = Included(0.0), Included(1024.0), "at most 1024";
    CLASS_COUNT = Included(0.0), Included(1e6), "at most 1000000";
    PIXELS = Included(0.0), Included(16384.0), "at most 16384";
    COPIES = Included(0.0), Included(1024.0), "at most 1024";
    FRAMES = Included(1.0), Included(4096.0), "between 1 and 4096";
    ERASED_BOXES = Included(1.0), Included(16.0), "between 1 and 16";
}

/// Type of a number of the settings.
pub trait Number: std::str::FromStr + Copy + std::fmt::Display + Send + Sync + 'static {
    /// Description of a number of this type.
    const DESCRIPTION: &'static str;
    /// Largest value.
    const MAX: Self;

    /// The value of a text, also if it is outside of the type's range; `None` if the text is not such a number.
    fn exact(text: &str) -> Option<f64>;

    /// The value as `f64`.
    fn to_f64(self) -> f64;
}

/// Type of a numeric setting: a number, or a list.
pub trait Numeric {
    /// Type of a number.
    type Number: Number;

    /// The numbers.
    fn numbers(&self) -> Vec<f64>;
}

macro_rules! numbers {
    ($($number:ty: $description:literal, $exact:ty;)*) => {$(
        impl Number for $number {
            const DESCRIPTION: &'static str = $description;
            const MAX: $number = <$number>::MAX;

            fn exact(text: &str) -> Option<f64> {
                text.parse::<$exact>().ok().map(|value| value as f64)
            }

            fn to_f64(self) -> f64 {
                self as f64
            }
        }

        impl Numeric for $number {
            type Number = $number;

            fn numbers(&self) -> Vec<f64> {
                vec![self.to_f64()]
            }
        }

        impl Numeric for Vec<$number> {
            type Number = $number;

            fn numbers(&self) -> Vec<f64> {
                self.iter().map(|number| number.to_f64()).collect()
            }
        }
    )*};
}

numbers! {
    f32: "number", f64;
    f64: "number", f64;
    u32: "whole number", i128;
    u64: "whole number", i128;
    usize: "whole number", i128;
}

/// Value of a setting outside of its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutOfRange {
    /// Name of the setting, with underscores.
    pub name: &'static str,
    /// The value.
    pub value: f64,
    /// The range.
    pub range: ValueRange,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_to_their_ranges() {
        let positive = POSITIVE.parser::<f64>();
        assert!(positive("0").is_err() && positive("nan").is_err() && positive("inf").is_err());
        assert_eq!((positive("2e-5"), positive("x")), (Ok(2e-5), Err("must be a number".into())));
        let fraction = FRACTION.parser::<f64>();
        assert!(fraction("0").is_err() && fraction("1").is_err() && fraction("0.5") == Ok(0.5));
        let below_one = BELOW_ONE.parser::<f64>();
        assert!(below_one("1").is_err() && below_one("-0.1").is_err() && below_one("0") == Ok(0.0));
    }

    #[test]
    fn whole_numbers_outside_their_range_name_the_bound() {
        let at_least_one = AT_LEAST_ONE.parser::<u32>();
        assert_eq!(at_least_one("0"), Err("must be at least 1".into()));
        assert_eq!(at_least_one("4294967296"), Err("must be at most 4294967295".into()));
        let boxes = ERASED_BOXES.parser::<u32>();
        assert_eq!(boxes("17"), Err("must be between 1 and 16".into()));
        assert_eq!(boxes("1.5"), Err("must be a whole number".into()));
        assert_eq!(boxes("16"), Ok(16));
    }

    #[test]
    fn percentages_and_pixel_values_are_recognised() {
        assert_eq!(CROP_PCT.hint(95.0).as_deref(), Some("it is a fraction: 0.95"));
        assert_eq!(MEAN.hint(123.675).as_deref(), Some("pixel values are scaled to 0..1: 0.485"));
        assert_eq!((PROBABILITY.hint(-1.0), CROP_PCT.hint(1e4), JITTER.hint(5.0)), (None, None, None));
    }
}
