//! Images that cannot be read or decoded: the policy, and a record of them.
use super::dataset::Dataset;
use crate::checkpoint::durable;
use crate::error::ErrorKind;
use crate::{Error, Result};
use clap::ValueEnum;
use fornax_engine::random::{RngKey, RngStream};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Policy for images that cannot be read or decoded.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadImagePolicy {
    /// End the run
    Error,
    /// Leave the image out of its batch
    Skip,
    /// Take another image, chosen by seed, epoch and sample
    Replace,
}

/// Default of the largest fraction of bad images.
pub const MAX_BAD_FRACTION: f64 = 0.001;

/// Thread-safe record of the bad images of a split. Each image counts once, however often it is met.
#[derive(Debug)]
pub struct BadImages {
    policy: BadImagePolicy,
    max_fraction: f64,
    samples: usize,
    found: Mutex<BTreeMap<usize, BadImage>>,
}

/// Bad image of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadImage {
    /// Location of the sample.
    pub location: String,
    /// Reason.
    pub why: String,
}

impl BadImages {
    /// Creates an empty record for a split of `samples` samples, of which at most the fraction `max_fraction` may be bad. A single bad image
    /// is always within the limit.
    pub fn new(policy: BadImagePolicy, max_fraction: f64, samples: usize) -> BadImages {
        BadImages { policy, max_fraction, samples, found: Mutex::default() }
    }

    /// The policy.
    pub fn policy(&self) -> BadImagePolicy {
        self.policy
    }

    /// Records a bad image. Errors if the policy is [`BadImagePolicy::Error`], if more than the allowed fraction is bad, or if `error` is
    /// not about the data.
    pub fn report(&self, dataset: &dyn Dataset, index: usize, error: Error) -> Result<()> {
        if self.policy == BadImagePolicy::Error || error.kind() != ErrorKind::Data {
            return Err(error);
        }
        let mut found = self.lock();
        found.entry(index).or_insert_with(|| BadImage {
            location: dataset.location(index),
            why: error.why().unwrap_or(error.what()).into(),
        });
        let (bad, allowed) = (found.len(), ((self.max_fraction * self.samples as f64) as usize).max(1));
        if bad <= allowed {
            return Ok(());
        }
        Err(Error::data(format!("{bad} of {} images are bad", self.samples))
            .at(dataset.location(index))
            .because(format!("at most {allowed} may be; the last: {}", error.why().unwrap_or(error.what())))
            .remedy("run `fornax datasets verify` and replace the files it lists, or raise --max-bad"))
    }

    /// All bad images so far, by sample index.
    pub fn found(&self) -> Vec<(usize, BadImage)> {
        self.lock().iter().map(|(index, bad)| (*index, bad.clone())).collect()
    }

    /// Writes all bad images as CSV: `index,path,reason`. Nothing is written if there are none.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        let found = self.found();
        if found.is_empty() {
            return Ok(());
        }
        let mut text = String::from("index,path,reason\n");
        for (index, bad) in found {
            text += &format!("{index},{},{}\n", quoted(&bad.location), quoted(&bad.why));
        }
        durable::write(path, text.as_bytes())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, BadImage>> {
        // The map is valid at every moment: a panic elsewhere does not damage it.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A CSV field; quoted if needed.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.into(),
    }
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
        let text = bad.report(&dataset, 9, error("damaged")).expect_err("three").to_string();
        assert!(text.contains("3 of 1000 images are bad") && text.contains("--max-bad"), "{text}");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bad_images.csv");
        bad.write_csv(&path).expect("writes");
        let csv = std::fs::read_to_string(&path).expect("reads");
        let rows =
            "index,path,reason\n3,\"a,b, image 3\",damaged\n7,\"a,b, image 7\",\"it is \"\"cut\"\"\"\n";
        assert!(csv.starts_with(rows), "{csv}");
        BadImages::new(BadImagePolicy::Skip, 0.0, 5)
            .write_csv(&folder.path().join("none"))
            .expect("nothing to do");
        assert!(!folder.path().join("none").exists());
    }

    #[test]
    fn policy_error_and_other_errors_are_passed_on() {
        let dataset = dataset(10);
        let strict = BadImages::new(BadImagePolicy::Error, 1.0, 10);
        assert!(
            strict.report(&dataset, 0, error("damaged")).expect_err("ends").to_string().contains("damaged")
        );
        let lenient = BadImages::new(BadImagePolicy::Skip, 1.0, 10);
        assert!(lenient.report(&dataset, 0, Error::disk("full")).is_err());
        assert_eq!(lenient.found(), []);
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
