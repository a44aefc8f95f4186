//! Bad images of an evaluation: skipped as in training's validation, or all listed in an error.
use crate::config::Config;
use crate::data::bad_images::{BadImage, list};
use crate::data::header_check::{HeaderCheckPart, check_headers, has_image_files};
use crate::data::{BadImagePolicy, BadImages};
use crate::error::ErrorKind;
use crate::experiment::RunData;
use crate::message::count;
use crate::{Error, Result};
use std::sync::Arc;

/// Threads of the check of headers, which mostly wait for the disk.
const THREADS: usize = 16;

/// Record of the bad images of the validation split. With `--bad-image error`, the headers of all images are checked first, and bad ones are
/// an error.
pub fn record(
    config: &Config,
    data: &RunData,
    check_interrupt: &dyn Fn() -> Result<()>,
) -> Result<Arc<BadImages>> {
    let validation = data.splits.validation.as_deref();
    let (policy, max_bad) = (config.data.bad_image, config.data.max_bad);
    let record =
        Arc::new(BadImages::of_validation(policy, max_bad, validation.map_or(0, |split| split.len())));
    if let Some(dataset) =
        validation.filter(|split| policy == BadImagePolicy::Error && has_image_files(*split))
    {
        let part = HeaderCheckPart { rank: 0, world: 1, threads: THREADS };
        let found = check_headers(dataset, part, &mut |_| check_interrupt())?;
        found.bad.into_iter().for_each(|(index, bad)| record.record(index, bad));
        if !record.found().is_empty() {
            return Err(error(&record));
        }
    }
    Ok(record)
}

/// The error of an evaluation. A bad image becomes the list of all that are known.
pub fn with_list(failure: Error, record: &BadImages) -> Error {
    let is_list = record.policy() == BadImagePolicy::Error && failure.kind() == ErrorKind::Data;
    if is_list && !record.found().is_empty() { error(record) } else { failure }
}

/// Warns about the images that were skipped.
pub fn warn(record: &BadImages) {
    let found = found(record);
    if !found.is_empty() {
        message!("warning: {} skipped:\n{}", count(found.len() as u64, "bad image"), list(found.iter()));
    }
}

fn error(record: &BadImages) -> Error {
    let found = found(record);
    Error::data(format!("{} cannot be used", count(found.len() as u64, "validation image")))
        .because(list(found.iter()))
        .remedy("repair or replace them, or choose another --bad-image")
}

fn found(record: &BadImages) -> Vec<BadImage> {
    record.found().into_iter().map(|(_, bad)| bad).collect()
}
