//! Images that cannot be read or decoded: the policy, a record of them, and `bad_images.csv`.
use super::dataset::Dataset;
use crate::error::ErrorKind;
use crate::run_files::regular;
use crate::text::csv_cell;
use crate::{Error, Result};
use clap::ValueEnum;
use fornax_engine::random::{RngKey, RngStream};
use serde::{Deserialize, Serialize};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Policy for images that cannot be read or decoded.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadImagePolicy {
    /// End the run
    Error,
    /// Omit the image from its batch
    Skip,
    /// Take another image, chosen by seed, epoch and sample
    Replace,
}

/// Default of the largest fraction of bad images.
pub const MAX_BAD_FRACTION: f64 = 0.001;

/// Thread-safe record of the bad images of a split, of all ranks. Each image counts once, however often it is met.
#[derive(Debug)]
pub struct BadImages {
    policy: BadImagePolicy,
    max_fraction: f64,
    samples: usize,
    /// Name of the split for messages.
    split: &'static str,
    found: Mutex<FoundImages>,
    file: OnceLock<Arc<BadImagesFile>>,
}

#[derive(Debug, Default)]
struct FoundImages {
    images: BTreeMap<usize, BadImage>,
    /// Images that this process has met and other ranks may not know.
    unshared: Vec<usize>,
    /// This process has met a bad image.
    is_met: bool,
}

/// Bad image of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadImage {
    /// Location of the sample.
    pub location: String,
    /// Reason.
    pub why: String,
}

impl BadImage {
    /// The image at a location that cannot be used because of an error.
    pub fn new(location: String, error: &Error) -> BadImage {
        BadImage { location, why: error.why().unwrap_or(error.what()).to_string() }
    }
}

impl BadImages {
    /// Creates an empty record for a training split of `samples` samples, of which at most the fraction `max_fraction` may be bad. A single
    /// bad image is always within the limit.
    pub fn new(policy: BadImagePolicy, max_fraction: f64, samples: usize) -> BadImages {
        let (found, file) = (Mutex::default(), OnceLock::new());
        BadImages { policy, max_fraction, samples, split: "training", found, file }
    }

    /// As [`BadImages::new`] for a validation split: another image would count twice there, so `replace` skips the image.
    pub fn of_validation(policy: BadImagePolicy, max_fraction: f64, samples: usize) -> BadImages {
        let policy = if policy == BadImagePolicy::Replace { BadImagePolicy::Skip } else { policy };
        BadImages { split: "validation", ..BadImages::new(policy, max_fraction, samples) }
    }

    /// The policy.
    pub fn policy(&self) -> BadImagePolicy {
        self.policy
    }

    /// Name of the split: `training` or `validation`.
    pub fn split(&self) -> &'static str {
        self.split
    }

    /// Lists the bad images in a file, from now on as soon as they are met.
    pub fn list_in(&self, file: &Arc<BadImagesFile>) {
        if self.file.set(file.clone()).is_ok() {
            self.lock().images.iter().for_each(|(index, bad)| file.append(self.split, *index, bad));
        }
    }

    /// Records a bad image that this process has met. Errors if the policy is [`BadImagePolicy::Error`], or if `error` is not about the data.
    pub fn report(&self, dataset: &dyn Dataset, index: usize, error: Error) -> Result<()> {
        if error.kind() != ErrorKind::Data {
            return Err(error);
        }
        let mut found = self.lock();
        let is_new = self.insert(&mut found, index, || BadImage::new(dataset.location(index), &error));
        // The first one is shared in any case: then the ranks compare the count of a resumed run with the limit.
        if is_new || !found.is_met {
            found.unshared.push(index);
        }
        found.is_met = true;
        if self.policy == BadImagePolicy::Error { Err(error) } else { Ok(()) }
    }

    /// Adds a bad image that all ranks know to the record and to its file.
    pub fn record(&self, index: usize, bad: BadImage) {
        self.insert(&mut self.lock(), index, || bad);
    }

    /// Adds an image to the record and to its file. True if it is new.
    fn insert(&self, found: &mut FoundImages, index: usize, bad: impl FnOnce() -> BadImage) -> bool {
        let Entry::Vacant(entry) = found.images.entry(index) else { return false };
        let bad = entry.insert(bad());
        if let Some(file) = self.file.get() {
            file.append(self.split, index, bad);
        }
        true
    }

    /// True if this process has met bad images that other ranks may not know.
    pub fn has_unshared(&self) -> bool {
        !self.lock().unshared.is_empty()
    }

    /// The images that this process has met since the last call and other ranks may not know.
    pub fn take_unshared(&self) -> Vec<(usize, BadImage)> {
        let mut found = self.lock();
        let indices = std::mem::take(&mut found.unshared);
        indices.into_iter().map(|index| (index, found.images[&index].clone())).collect()
    }

    /// Errors if more than the allowed number of images are in the record.
    pub fn check(&self) -> Result<()> {
        // The lock ends here: the error takes it again.
        let bad = self.lock().images.len();
        self.check_count(bad)
    }

    /// Errors if more than the allowed number of images are bad. `bad` is their number, over all ranks; the error lists the known ones.
    pub fn check_count(&self, bad: usize) -> Result<()> {
        let allowed = ((self.max_fraction * self.samples as f64) as usize).max(1);
        if bad <= allowed {
            return Ok(());
        }
        let found = self.found();
        Err(Error::data(format!("too many {} images are bad: {bad} of {}", self.split, self.samples))
            .because(format!("at most {allowed} may be\n{}", list(found.iter().map(|(_, bad)| bad))))
            .remedy("`fornax datasets verify` finds all of them: repair or replace them, or raise --max-bad"))
    }

    /// All bad images so far, by sample index.
    pub fn found(&self) -> Vec<(usize, BadImage)> {
        self.lock().images.iter().map(|(index, bad)| (*index, bad.clone())).collect()
    }

    /// Sample indices of all bad images so far.
    pub fn indices(&self) -> Vec<usize> {
        self.lock().images.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, FoundImages> {
        // The map is valid at every moment: a panic elsewhere does not damage it.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bad images that a message lists at most.
const LISTED: usize = 20;

/// Lines of bad images for a message: location and reason of the first ones, and the number of the others.
pub fn list<'a>(images: impl ExactSizeIterator<Item = &'a BadImage>) -> String {
    let more = images.len().saturating_sub(LISTED);
    let mut lines: Vec<String> =
        images.take(LISTED).map(|bad| format!("{}: {}", bad.location, bad.why)).collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

/// `bad_images.csv`: `split,index,path,reason`, one row for each bad image of a run, written as soon as it is met.
#[derive(Debug)]
pub struct BadImagesFile {
    path: PathBuf,
    state: Mutex<FileState>,
}

#[derive(Debug, Default)]
struct FileState {
    /// Start of each row in the file, `split,index,`.
    rows: BTreeSet<String>,
    failed: Option<Error>,
}

impl BadImagesFile {
    /// Opens the file of a run, which exists after the first bad image. Rows of an earlier part of the run are kept.
    pub fn open(path: PathBuf) -> BadImagesFile {
        let text = regular::read_to_string(&path).unwrap_or_default();
        let key = |line: &str| {
            let mut parts = line.splitn(3, ',');
            Some(format!("{},{},", parts.next()?, parts.next()?))
        };
        let rows = text.lines().filter_map(key).collect();
        BadImagesFile { path, state: Mutex::new(FileState { rows, failed: None }) }
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The first failed write since the last call.
    pub fn take_error(&self) -> Option<Error> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failed.take()
    }

    fn append(&self, split: &str, index: usize, bad: &BadImage) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{split},{index},");
        if !state.rows.insert(key.clone()) {
            return;
        }
        let row = format!("{key}{},{}\n", csv_cell(&bad.location), csv_cell(&bad.why));
        let header = if self.path.exists() { "" } else { "split,index,path,reason\n" };
        let write = || {
            let mut file = regular::append(&self.path)?;
            file.write_all(format!("{header}{row}").as_bytes())
        };
        if let Err(error) = write() {
            let error =
                Error::disk("the list of bad images cannot be written").at_path(&self.path).because(error);
            state.failed.get_or_insert(error);
        }
    }
}

/// Sample that takes the place of a bad one: a function of seed, epoch, sample and the number of replacements tried before, so that a
/// resumed run sees the same. May be bad as well.
pub fn replacement(seed: u64, epoch: u32, sample: usize, attempt: u32, samples: usize) -> usize {
    let mut rng = RngStream::new(RngKey::new(seed, "bad-image"), epoch, sample as u64).at(u64::from(attempt));
    let high = u64::from(rng.next_u32()) << 32;
    let random = high | u64::from(rng.next_u32());
    ((u128::from(random) * samples as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::InMemoryDataset;

    fn dataset(samples: usize) -> InMemoryDataset {
        let classes = vec!["a".to_string()].into();
        InMemoryDataset::uniform(vec![0; samples], [1, 1, 1], vec![0; samples], classes, "a,b")
            .expect("valid")
    }

    fn error(why: &str) -> Error {
        Error::data("the image cannot be read").because(why)
    }

    #[test]
    fn images_count_once_and_only_a_fraction_may_be_bad() {
        let dataset = dataset(1000);
        let bad = BadImages::new(BadImagePolicy::Replace, 0.002, 1000);
        for _ in 0..3 {
            bad.report(&dataset, 7, error("it is \"cut\"")).expect("within the limit");
        }
        bad.report(&dataset, 3, error("damaged")).expect("within the limit");
        bad.check().expect("within the limit");
        bad.report(&dataset, 9, error("damaged")).expect("recorded");
        let text = bad.check().expect_err("three").to_string();
        assert!(text.contains("images are bad: 3 of 1000") && text.contains("--max-bad"), "{text}");
        for image in ["image 3: damaged", "image 7: it is \"cut\"", "image 9"] {
            assert!(text.contains(image), "all known bad images are listed: {text}");
        }
    }

    #[test]
    fn file_has_a_row_for_each_image_as_soon_as_it_is_met_and_keeps_earlier_rows() {
        let dataset = dataset(1000);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bad_images.csv");
        let record = || {
            let bad = BadImages::of_validation(BadImagePolicy::Replace, 1.0, 1000);
            bad.list_in(&Arc::new(BadImagesFile::open(path.clone())));
            bad
        };
        let bad = record();
        assert!(!path.exists());
        bad.report(&dataset, 7, error("it is \"cut\"")).expect("within the limit");
        let rows = "split,index,path,reason\nvalidation,7,\"a,b, image 7\",\"it is \"\"cut\"\"\"\n";
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), rows);
        // A resumed run meets the image again, and another one.
        let again = record();
        again.report(&dataset, 7, error("it is cut")).expect("within the limit");
        again.report(&dataset, 3, error("damaged")).expect("within the limit");
        let rows = format!("{rows}validation,3,\"a,b, image 3\",damaged\n");
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), rows);
    }

    #[test]
    fn images_that_other_ranks_do_not_know_are_taken_once() {
        let dataset = dataset(1000);
        let bad = BadImages::new(BadImagePolicy::Skip, 1.0, 1000);
        bad.record(7, BadImage { location: "image 7".into(), why: "cut".into() });
        assert!(!bad.has_unshared());
        let meet = |index| {
            bad.report(&dataset, index, error("damaged")).expect("recorded");
            bad.take_unshared().into_iter().map(|(index, _)| index).collect::<Vec<_>>()
        };
        assert_eq!(meet(7), [7], "the first one that is met, although it is known");
        assert_eq!(meet(7), [0; 0]);
        assert_eq!(meet(3), [3]);
        assert!(!bad.has_unshared());
        assert_eq!(bad.indices(), [3, 7]);
    }

    #[test]
    fn policy_error_and_other_errors_are_passed_on() {
        let dataset = dataset(10);
        let strict = BadImages::new(BadImagePolicy::Error, 1.0, 10);
        assert!(
            strict.report(&dataset, 0, error("damaged")).expect_err("ends").to_string().contains("damaged")
        );
        assert_eq!(strict.found().len(), 1);
        let lenient = BadImages::new(BadImagePolicy::Skip, 1.0, 10);
        assert!(lenient.report(&dataset, 0, Error::disk("full")).is_err());
        assert_eq!(lenient.found(), []);
    }

    #[test]
    fn validation_skips_images_instead_of_replacing_them() {
        let policies = [BadImagePolicy::Replace, BadImagePolicy::Skip, BadImagePolicy::Error];
        let of_validation = policies.map(|policy| BadImages::of_validation(policy, 0.1, 10).policy());
        assert_eq!(of_validation, [BadImagePolicy::Skip, BadImagePolicy::Skip, BadImagePolicy::Error]);
    }

    #[test]
    fn replacement_is_keyed_and_within_the_dataset() {
        let all: Vec<usize> = (0..200).map(|sample| replacement(1, 2, sample, 0, 50)).collect();
        assert!(all.iter().all(|index| *index < 50));
        assert_eq!(all, (0..200).map(|sample| replacement(1, 2, sample, 0, 50)).collect::<Vec<_>>());
        let differs =
            |seed, epoch, attempt| (0..200).any(|s| replacement(seed, epoch, s, attempt, 50) != all[s]);
        assert!(differs(2, 2, 0) && differs(1, 3, 0) && differs(1, 2, 1));
    }
}
