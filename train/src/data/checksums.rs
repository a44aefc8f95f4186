//! Checksums that identify a dataset wherever its files are: ranks compare them with rank 0, and a resumed run with its checkpoint.
use super::dataset::Dataset;
use super::header_check::has_image_files;
use super::open::DatasetSplits;
use fornax_engine::random::{Permutation, RngKey};
use rayon::prelude::*;

/// Samples of a split whose file sizes are part of its content checksum: all of them, or a sample of a larger split. File systems of clusters
/// take about 0.1 ms each.
const SIZED_SAMPLES: u64 = 1 << 16;
/// Samples of a split whose first bytes are part of its content checksum.
const READ_SAMPLES: u64 = 256;
/// Bytes of these samples.
const HEAD: usize = 4 << 10;

/// Checksums of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatasetChecksums {
    /// Names and labels of the samples; images too, if they are not files ([`Dataset::crc32c`]).
    pub samples: SplitChecksums,
    /// Image files: their sizes, and the first bytes of some.
    pub content: SplitChecksums,
}

/// A CRC32C for each split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SplitChecksums {
    /// Training split.
    pub train: u32,
    /// Validation split, if there is one.
    pub validation: Option<u32>,
}

impl DatasetSplits {
    /// Checksums of the dataset. They depend on no path above the dataset's folder. Reads a few hundred files and the sizes of at most 65,536
    /// per split.
    pub fn checksums(&self) -> DatasetChecksums {
        DatasetChecksums {
            samples: self.of_splits(|split| split.crc32c()),
            content: self.of_splits(content_crc32c),
        }
    }

    fn of_splits(&self, crc32c: impl Fn(&dyn Dataset) -> u32) -> SplitChecksums {
        let validation = self.validation.as_ref().map(|split| crc32c(&**split));
        SplitChecksums { train: crc32c(&*self.train), validation }
    }
}

impl SplitChecksums {
    /// CRC32C of both splits together.
    pub fn combined(&self) -> u32 {
        let sums = [Some(self.train), self.validation];
        sums.into_iter().flatten().fold(0, |sum, part| crc32c::crc32c_append(sum, &part.to_le_bytes()))
    }
}

/// CRC32C of the image files of a split: sizes, and first bytes of some; 0 for decoded images.
fn content_crc32c(split: &dyn Dataset) -> u32 {
    if !has_image_files(split) {
        return 0;
    }
    let samples = split.len() as u64;
    let order = Permutation::new(samples, RngKey::new(0, "content checksum"), 0);
    let sums = |count: u64, limit: usize| -> Vec<u32> {
        let of = |position| sample_crc32c(split, order.get(position) as usize, limit);
        (0..samples.min(count)).into_par_iter().map(of).collect()
    };
    let sums = [sums(SIZED_SAMPLES, 0), sums(READ_SAMPLES, HEAD)].concat();
    sums.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, &part.to_le_bytes()))
}

/// CRC32C of the sizes and at most `limit` first bytes of a sample's files. A file that cannot be read has a sum of its own: what to do with
/// it is decided elsewhere.
fn sample_crc32c(split: &dyn Dataset, index: usize, limit: usize) -> u32 {
    let Ok(heads) = split.image_heads(index, limit) else { return u32::MAX };
    heads.iter().fold(0, |sum, head| {
        let sum = crc32c::crc32c_append(sum, &head.file_size.to_le_bytes());
        crc32c::crc32c_append(sum, &head.bytes)
    })
}

#[cfg(test)]
mod tests {
    use crate::data::DatasetOptions;
    use std::fs;
    use std::path::Path;

    fn write_dataset(root: &Path) {
        for split in ["train", "val"] {
            for class in ["a", "b"] {
                let folder = root.join(split).join(class);
                fs::create_dir_all(&folder).expect("a folder");
                for image in 0..4 {
                    let bytes = [split.as_bytes(), class.as_bytes(), &[image; 30]].concat();
                    fs::write(folder.join(format!("{image}.png")), bytes).expect("writes");
                }
            }
        }
    }

    fn checksums(root: &Path) -> super::DatasetChecksums {
        let options = DatasetOptions { root: Some(root.into()), ..DatasetOptions::default() };
        options.open().expect("a dataset").checksums()
    }

    #[test]
    fn checksums_depend_on_the_files_and_not_on_the_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (folder.path().join("one"), folder.path().join("scratch/job.7/other"));
        [&one, &other].into_iter().for_each(|root| write_dataset(root));
        let expected = checksums(&one);
        assert_eq!(checksums(&other), expected);
        // Same size, other bytes.
        fs::write(other.join("train/a/2.png"), [b"train".as_slice(), b"a", &[9; 30]].concat())
            .expect("writes");
        let changed = checksums(&other);
        assert_eq!(
            (changed.samples, changed.content.validation),
            (expected.samples, expected.content.validation)
        );
        assert_ne!(changed.content.train, expected.content.train);
        // A file that was copied in part, of the other split.
        write_dataset(&other);
        fs::write(other.join("val/b/0.png"), b"val").expect("writes");
        let changed = checksums(&other);
        assert_eq!((changed.samples, changed.content.train), (expected.samples, expected.content.train));
        assert_ne!(changed.content.validation, expected.content.validation);
        fs::rename(other.join("val/b/0.png"), other.join("val/a/9.png")).expect("renames");
        assert_ne!(checksums(&other).samples.validation, expected.samples.validation);
    }
}
