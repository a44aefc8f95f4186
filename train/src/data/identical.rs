//! Identical images in several classes or splits: wrong labels, and validation images that are trained on.
use super::dataset::{Dataset, SampleImage};
use crate::Result;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// Size and checksum of a sample's data, by which candidates for equality are found.
pub type Fingerprint = (u64, u32);

/// Sample of one of several splits: index of the split, and of the sample in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SampleId {
    /// Index of the split.
    pub split: usize,
    /// Index of the sample.
    pub index: usize,
}

/// Samples with identical data that are not all in one class of one split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdenticalSamples {
    /// The samples, in order.
    pub samples: Vec<SampleId>,
    /// They have several classes.
    pub across_classes: bool,
    /// They are in several splits.
    pub across_splits: bool,
}

/// Fingerprint of the images of a sample.
pub fn fingerprint(images: &[SampleImage<'_>]) -> Fingerprint {
    images
        .iter()
        .map(data)
        .fold((0, 0), |(size, sum), bytes| (size + bytes.len() as u64, crc32c::crc32c_append(sum, bytes)))
}

/// Groups of identical samples across classes or splits, given the fingerprint of each sample of each split. Only samples with equal
/// fingerprints are read again and compared, by SHA-256.
pub fn identical_samples(
    splits: &[&dyn Dataset],
    fingerprints: &[Vec<Option<Fingerprint>>],
) -> Result<Vec<IdenticalSamples>> {
    let mut candidates: HashMap<Fingerprint, Vec<SampleId>> = HashMap::new();
    for (split, of_split) in fingerprints.iter().enumerate() {
        for (index, fingerprint) in of_split.iter().enumerate() {
            if let Some(fingerprint) = fingerprint {
                candidates.entry(*fingerprint).or_default().push(SampleId { split, index });
            }
        }
    }
    let candidates: Vec<Vec<SampleId>> =
        candidates.into_values().filter(|samples| describe(splits, samples.clone()).is_some()).collect();
    let groups: Vec<Vec<IdenticalSamples>> = candidates
        .into_par_iter()
        .map(|samples| {
            let mut by_hash: HashMap<[u8; 32], Vec<SampleId>> = HashMap::new();
            for sample in samples {
                let images = splits[sample.split].clip(sample.index, None)?;
                let mut hash = Sha256::new();
                images.iter().for_each(|image| hash.update(data(image)));
                by_hash.entry(hash.finalize().into()).or_default().push(sample);
            }
            Ok(by_hash.into_values().filter_map(|samples| describe(splits, samples)).collect())
        })
        .collect::<Result<_>>()?;
    let mut groups: Vec<IdenticalSamples> = groups.into_iter().flatten().collect();
    groups.sort_by(|a, b| a.samples.cmp(&b.samples));
    Ok(groups)
}

/// The group of samples, if they are not all in one class of one split.
fn describe(splits: &[&dyn Dataset], samples: Vec<SampleId>) -> Option<IdenticalSamples> {
    let first = samples[0];
    let class = |sample: &SampleId| splits[sample.split].target(sample.index);
    let across_classes = samples.iter().any(|sample| class(sample) != class(&first));
    let across_splits = samples.iter().any(|sample| sample.split != first.split);
    (across_classes || across_splits).then_some(IdenticalSamples { samples, across_classes, across_splits })
}

fn data<'a>(image: &'a SampleImage<'_>) -> &'a [u8] {
    match image {
        SampleImage::Encoded(bytes) => bytes,
        SampleImage::Decoded(image) => &image.pixels,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::InMemoryDataset;

    #[test]
    fn identical_samples_are_found_across_classes_and_splits_only() {
        let dataset = |pixels: &[u8], targets: &[u32]| {
            let classes = ["a", "b"].map(String::from);
            InMemoryDataset::uniform(pixels.to_vec(), [1, 1, 1], targets.to_vec(), classes.into(), "test")
                .expect("valid")
        };
        // 1 is in both classes, 2 in both splits, 3 twice in one class, 4 once.
        let train = dataset(&[1, 1, 2, 3, 3, 4], &[0, 1, 0, 0, 0, 1]);
        let validation = dataset(&[2, 5], &[0, 0]);
        let splits: [&dyn Dataset; 2] = [&train, &validation];
        let fingerprints = splits.map(|split| {
            (0..split.len()).map(|i| Some(fingerprint(&split.clip(i, None).expect("memory")))).collect()
        });
        let found = identical_samples(&splits, &fingerprints).expect("memory");
        let sample = |split, index| SampleId { split, index };
        let group = |samples: [SampleId; 2], across_classes, across_splits| IdenticalSamples {
            samples: samples.into(),
            across_classes,
            across_splits,
        };
        assert_eq!(
            found,
            [
                group([sample(0, 0), sample(0, 1)], true, false),
                group([sample(0, 2), sample(1, 0)], false, true)
            ]
        );
        // Equal fingerprints alone do not make samples identical.
        let forged = [vec![Some((1, 7)), None, None, None, None, Some((1, 7))], vec![]];
        assert_eq!(identical_samples(&splits, &forged).expect("memory"), []);
    }
}
