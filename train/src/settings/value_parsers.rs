//! Parsers of values with a range.
use super::AUTO_BATCH_SIZE;
use crate::optim::KwargValue;
use fornax_nn::models::Pooling;
use std::path::PathBuf;

/// A number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    number(text, |v| v > 0.0 && v.is_finite(), "above 0")
}

/// A number of at least 0.
pub fn non_negative(text: &str) -> Result<f64, String> {
    number(text, |v| v >= 0.0 && v.is_finite(), "0 or more")
}

/// A number above 0 and below 1.
pub fn fraction(text: &str) -> Result<f64, String> {
    number(text, |v| v > 0.0 && v < 1.0, "above 0 and below 1")
}

/// Number of loader threads.
pub fn worker_count(text: &str) -> Result<usize, String> {
    whole::<0, 1024>(text).map(|count| count as usize)
}

/// A number of at least 0 and below 1.
pub fn below_one(text: &str) -> Result<f64, String> {
    number(text, |v| (0.0..1.0).contains(&v), "at least 0 and below 1")
}

/// A number from 0 to 1.
pub fn probability(text: &str) -> Result<f64, String> {
    number(text, |v| (0.0..=1.0).contains(&v), "between 0 and 1")
}

/// A whole number from `MIN` to `MAX`.
pub fn whole<const MIN: u32, const MAX: u32>(text: &str) -> Result<u32, String> {
    match text.parse::<i128>() {
        Ok(value) if (i128::from(MIN)..=i128::from(MAX)).contains(&value) => Ok(value as u32),
        Ok(value) if value < i128::from(MIN) || MAX < u32::MAX => Err(match MAX {
            u32::MAX => format!("must be at least {MIN}"),
            _ => format!("must be between {MIN} and {MAX}"),
        }),
        Ok(_) => Err(format!("must be at most {MAX}")),
        Err(_) => Err("must be a whole number".into()),
    }
}

/// A batch size, or `auto`.
pub fn batch_size(text: &str) -> Result<u32, String> {
    match text {
        "auto" => Ok(AUTO_BATCH_SIZE),
        _ => whole::<1, { u32::MAX }>(text).map_err(|why| format!("{why}, or auto")),
    }
}

/// A path that is valid UTF-8, as it is written to `args.yaml`.
pub fn utf8_path(text: &str) -> Result<PathBuf, String> {
    Ok(text.into())
}

/// `NAME=VALUE` of an optimizer argument.
pub fn name_value(text: &str) -> Result<String, String> {
    let (_, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    value.parse::<KwargValue>().map(|_| text.to_string())
}

/// A global pooling type.
pub fn pooling(text: &str) -> Result<String, String> {
    match text.parse::<Pooling>()? {
        Pooling::None => Err("the classifier needs pooled features".into()),
        _ => Ok(text.into()),
    }
}

fn number(text: &str, accepts: impl Fn(f64) -> bool, range: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if accepts(value) => Ok(value),
        Ok(_) => Err(format!("must be {range}")),
        Err(_) => Err("must be a number".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_to_their_ranges() {
        assert!(positive("0").is_err() && positive("nan").is_err() && positive("x").is_err());
        assert!(fraction("0").is_err() && fraction("1").is_err() && fraction("0.5") == Ok(0.5));
        assert!(below_one("1").is_err() && below_one("-0.1").is_err());
        assert_eq!((probability("1"), non_negative("0"), positive("2e-5")), (Ok(1.0), Ok(0.0), Ok(2e-5)));
    }

    #[test]
    fn whole_numbers_outside_their_range_name_the_bound() {
        assert_eq!(whole::<1, { u32::MAX }>("0"), Err("must be at least 1".into()));
        assert_eq!(whole::<1, { u32::MAX }>("4294967296"), Err("must be at most 4294967295".into()));
        assert_eq!(whole::<1, 16>("17"), Err("must be between 1 and 16".into()));
        assert_eq!(whole::<1, 16>("1.5"), Err("must be a whole number".into()));
        assert_eq!(whole::<1, 16>("16"), Ok(16));
    }
}
