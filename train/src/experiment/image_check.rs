//! Check of all image headers before the first update.
use super::Experiment;
use crate::callbacks::{Callback, CallbackList};
use crate::data::bad_images::{BadImage, list};
use crate::data::decode::{Gray16, gray16_note};
use crate::data::header_check::{
    CheckedHeaders, HeaderCheckPart, HeaderCheckProgress, check_headers, has_image_files,
};
use crate::data::{BadImagePolicy, BadImages, Dataset};
use crate::error::ErrorKind;
use crate::message::count;
use crate::{Error, Result};
use std::sync::Arc;
use std::time::Duration;

/// Threads of the check on this machine: most of its time is spent waiting for the disk.
const THREADS: usize = 16;
/// Duration of a check that is worth a message.
const LONG_CHECK: Duration = Duration::from_secs(1);

/// Checks the headers of all training and validation images, and records the bad ones. Of several ranks each checks its part of every
/// split: a shared disk is read once, and the results are exchanged. Errors, on all ranks alike, if a bad image ends the run by the policy
/// of its split, or if too many are bad; the error lists those of both splits.
pub(super) fn check_images(experiment: &Experiment, callbacks: &mut CallbackList) -> Result<()> {
    let loaders = [&experiment.train_loader, &experiment.validation_loader]
        .map(|loader| loader.as_ref().expect("built"));
    let datasets = loaders.map(|loader| loader.dataset());
    // --overfit-batches validates on the training images.
    let is_same = std::ptr::addr_eq(datasets[0], datasets[1]);
    let mut failed = vec![];
    for (dataset, loader) in datasets.into_iter().zip(loaders).take(if is_same { 1 } else { 2 }) {
        if !has_image_files(dataset) {
            continue;
        }
        let found = check_split(experiment, dataset, callbacks)?;
        let own = || Arc::new(BadImages::new(BadImagePolicy::Error, 0.0, dataset.len()));
        let record = loader.options().bad_images.clone().unwrap_or_else(own);
        found.bad.into_iter().for_each(|(index, bad)| record.record(index, bad));
        if experiment.config.data.gray16 == Gray16::Scale
            && let Some(note) = gray16_note(found.gray16, dataset.len())
        {
            callbacks.on_message(&format!("note: {}: {note}", record.split()))?;
        }
        let bad: Vec<BadImage> = record.found().into_iter().map(|(_, bad)| bad).collect();
        let is_error = record.policy() == BadImagePolicy::Error;
        if !bad.is_empty() && (is_error || record.check_count(bad.len()).is_err()) {
            failed.push((record, bad));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(error(&failed)) }
}

/// Findings of all ranks about a split.
fn check_split(
    experiment: &Experiment,
    dataset: &dyn Dataset,
    callbacks: &mut CallbackList,
) -> Result<CheckedHeaders> {
    let peers = experiment.peers();
    let world = peers.map_or(1, |run| run.world_size());
    let part = HeaderCheckPart { rank: experiment.rank(), world, threads: (THREADS / world).max(1) };
    let mut last = None;
    let found = check_headers(dataset, part, &mut |progress| {
        last = Some(*progress);
        callbacks.on_header_check(progress)?;
        match (peers, experiment.signals.interrupt()) {
            // Ranks are interrupted together, at the first update.
            (Some(run), _) => run.group.check(),
            (None, Some(signal)) => {
                Err(Error::new(ErrorKind::Interrupted(signal), "the run was interrupted"))
            }
            (None, None) => Ok(()),
        }
    })?;
    if let Some(HeaderCheckProgress { total, elapsed, .. }) = last.filter(|last| last.elapsed >= LONG_CHECK) {
        let (images, seconds) = (count(total as u64, "image"), elapsed.as_secs_f64());
        callbacks.on_message(&format!("checked the headers of {images} in {seconds:.1} s"))?;
    }
    let Some(run) = peers else { return Ok(found) };
    let all = run.gather("the checked headers", &found)?;
    let gray16 = all.iter().map(|part| part.gray16).sum();
    Ok(CheckedHeaders { bad: all.into_iter().flat_map(|part| part.bad).collect(), gray16 })
}

/// Error that lists the bad images of the splits that end the run.
fn error(failed: &[(Arc<BadImages>, Vec<BadImage>)]) -> Error {
    let counts: Vec<String> = failed
        .iter()
        .map(|(record, bad)| count(bad.len() as u64, &format!("{} image", record.split())))
        .collect();
    let is_limited = failed.iter().any(|(record, _)| record.policy() != BadImagePolicy::Error);
    let all: Vec<BadImage> = failed.iter().flat_map(|(_, bad)| bad.iter().cloned()).collect();
    Error::data(format!("{} cannot be used", counts.join(" and "))).because(list(all.iter())).remedy(
        match is_limited {
            true => "repair or replace them, or raise --max-bad",
            false => "repair or replace them, or choose another --bad-image",
        },
    )
}
