//! Parsers of values that are not plain numbers.
use super::AUTO_BATCH_SIZE;
use super::range::{AT_LEAST_ONE, POSITIVE};
use crate::optim::KwargValue;
use fornax_nn::models::Pooling;
use std::path::PathBuf;

/// A number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    POSITIVE.parser()(text)
}

/// A batch size, or `auto`.
pub fn batch_size(text: &str) -> Result<u32, String> {
    match text {
        "auto" => Ok(AUTO_BATCH_SIZE),
        _ => AT_LEAST_ONE.parser()(text).map_err(|why| format!("{why}, or auto")),
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
