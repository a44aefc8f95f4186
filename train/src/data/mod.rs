//! Datasets, image decoding and transforms, and batch loading.
pub mod decode;
mod digits;
pub mod eval_transform;
mod idx;
mod images;
mod loader;
pub mod natural;
pub mod resize;

pub use images::{ChannelStats, LabelledImages};
pub use loader::{Batch, Loader};

use crate::{Error, Result};
use std::path::Path;

/// Dataset in memory.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Training split.
    pub train: LabelledImages,
    /// Validation split.
    pub validation: LabelledImages,
    /// Class names.
    pub classes: Vec<String>,
    /// Mean and standard deviation of the training images.
    pub statistics: ChannelStats,
}

impl Dataset {
    /// CRC32C of all images and labels, by which a checkpoint identifies its dataset.
    pub fn crc32c(&self) -> u32 {
        let parts = [&self.train, &self.validation].into_iter().flat_map(|i| [&i.pixels, &i.labels]);
        parts.fold(0, |sum, part| crc32c::crc32c_append(sum, part))
    }
}

/// Registry entry of a dataset.
#[derive(Debug)]
pub struct DatasetInfo {
    /// Name for `--dataset`.
    pub name: &'static str,
    /// One-line description.
    pub description: &'static str,
    /// Download location and licence.
    pub source: &'static str,
    /// True if the dataset is read from files (`--data-dir`).
    pub needs_files: bool,
    /// Class names; empty if the number of classes follows from the labels.
    pub classes: &'static [&'static str],
}

/// All datasets.
pub const DATASETS: &[DatasetInfo] = &[
    DatasetInfo {
        name: "digits",
        description: "1,797 handwritten digits of 8x8 pixels; included in the program",
        source: "E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, CC BY 4.0",
        needs_files: false,
        classes: DIGITS,
    },
    DatasetInfo {
        name: "mnist",
        description: "70,000 handwritten digits of 28x28 pixels",
        source: "https://ossci-datasets.s3.amazonaws.com/mnist/",
        needs_files: true,
        classes: DIGITS,
    },
    DatasetInfo {
        name: "fashion-mnist",
        description: "70,000 pieces of clothing of 28x28 pixels",
        source: "https://github.com/zalandoresearch/fashion-mnist, MIT; Debian package dataset-fashion-mnist",
        needs_files: true,
        classes: &[
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ],
    },
    DatasetInfo {
        name: "kmnist",
        description: "70,000 cursive Japanese characters of 28x28 pixels",
        source: "https://codh.rois.ac.jp/kmnist/, CC BY-SA 4.0",
        needs_files: true,
        classes: &["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"],
    },
    DatasetInfo {
        name: "idx",
        description: "your own images in IDX files with MNIST's file names",
        source: "your own files",
        needs_files: true,
        classes: &[],
    },
];

const DIGITS: &[&str] = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// The dataset of this name.
pub fn find(name: &str) -> Option<&'static DatasetInfo> {
    DATASETS.iter().find(|d| d.name == name)
}

/// Reads and checks a dataset from the files in `folder`, if it [needs](DatasetInfo::needs_files) files.
pub fn load(info: &DatasetInfo, folder: Option<&Path>) -> Result<Dataset> {
    match (info.needs_files, folder) {
        (false, None) => {
            let all = digits::read()?;
            let (train, validation) = digits::split(&all.labels);
            dataset(info, all.select(train), all.select(validation), digits::MAX_VALUE)
        }
        (true, Some(folder)) => {
            let (train, validation) = (idx::read_split(folder, "train")?, idx::read_split(folder, "t10k")?);
            if train.size != validation.size {
                let why = format!("{:?} to train, {:?} to validate", train.size, validation.size);
                let what = "the training and validation images differ in size";
                return Err(Error::data(what).at_path(folder).because(why));
            }
            let classes = if info.classes.is_empty() { classes_of(&train) } else { info.classes.len() };
            for (images, split) in [(&train, "train"), (&validation, "t10k")] {
                images.check_labels(classes, &idx::labels_path(folder, split).display().to_string())?;
            }
            dataset(info, train, validation, 255)
        }
        (true, None) => Err(Error::usage(format!("--dataset {} needs --data-dir", info.name))
            .because("its files are not included in the program")
            .remedy(format!("download it and give its folder with --data-dir; source: {}", info.source))),
        (false, Some(folder)) => {
            Err(Error::usage(format!("--data-dir has no effect on --dataset {}", info.name))
                .at_path(folder)
                .because("this dataset is included in the program")
                .remedy("leave --data-dir out, or choose the folder's dataset with --dataset"))
        }
    }
}

fn dataset(
    info: &DatasetInfo,
    train: LabelledImages,
    validation: LabelledImages,
    white: u8,
) -> Result<Dataset> {
    let classes = match info.classes {
        [] => (0..classes_of(&train)).map(|c| c.to_string()).collect(),
        names => names.iter().map(|name| name.to_string()).collect(),
    };
    let statistics = ChannelStats::of(&train, white);
    Ok(Dataset { train, validation, classes, statistics })
}

fn classes_of(images: &LabelledImages) -> usize {
    images.labels.iter().max().map_or(0, |label| usize::from(*label) + 1)
}
