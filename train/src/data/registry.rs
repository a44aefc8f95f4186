//! Names for `--dataset`, and the published files of datasets.

use std::path::PathBuf;

/// Registry entry of a dataset or of a format of files.
#[derive(Debug)]
pub struct DatasetInfo {
    /// Name for `--dataset`.
    pub name: &'static str,
    /// One-line description.
    pub description: &'static str,
    /// Publisher and licence.
    pub source: &'static str,
    /// Format of the files.
    pub format: DatasetFormat,
    /// Class names; empty if they follow from the files.
    pub classes: &'static [&'static str],
    /// Published files; empty if there are none.
    pub files: &'static [RemoteFile],
    /// URLs of the folders with the files, tried in this order.
    pub mirrors: &'static [&'static str],
}

/// Format of a dataset's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatasetFormat {
    /// Digits included in the program.
    Digits,
    /// IDX files.
    Idx,
    /// CIFAR-10 in binary form.
    Cifar10,
    /// CIFAR-100 in binary form.
    Cifar100,
    /// Image folder.
    Folder,
    /// Tar archive or folder of tar archives.
    Tar,
    /// CSV list.
    Csv,
}

/// Published file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// File name below a mirror's URL.
    pub name: &'static str,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, hexadecimal.
    pub sha256: &'static str,
}

impl DatasetInfo {
    /// True if the dataset is read from files (`--data-dir`).
    pub fn needs_files(&self) -> bool {
        self.format != DatasetFormat::Digits
    }

    /// Folder that `fornax datasets download` writes the files to, unless another one is requested.
    pub fn download_folder(&self) -> PathBuf {
        PathBuf::from("data").join(self.name)
    }
}

const fn file(name: &'static str, size: u64, sha256: &'static str) -> RemoteFile {
    RemoteFile { name, size, sha256 }
}

/// Class names of the digits.
pub const DIGITS: &[&str] = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// All datasets and formats.
pub const DATASETS: &[DatasetInfo] = &[
    DatasetInfo {
        name: "digits",
        description: "1,797 handwritten digits of 8x8 pixels; included in the program",
        source: "E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, CC BY 4.0",
        format: DatasetFormat::Digits,
        classes: DIGITS,
        files: &[],
        mirrors: &[],
    },
    DatasetInfo {
        name: "mnist",
        description: "70,000 handwritten digits of 28x28 pixels",
        source: "https://ossci-datasets.s3.amazonaws.com/mnist/",
        format: DatasetFormat::Idx,
        classes: DIGITS,
        files: &[
            file(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            file(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ],
        mirrors: &[
            "https://ossci-datasets.s3.amazonaws.com/mnist",
            "https://storage.googleapis.com/cvdf-datasets/mnist",
        ],
    },
    DatasetInfo {
        name: "fashion-mnist",
        description: "70,000 pieces of clothing of 28x28 pixels",
        source: "https://github.com/zalandoresearch/fashion-mnist, MIT",
        format: DatasetFormat::Idx,
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
        files: &[
            file(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            file(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ],
        mirrors: &[
            "https://fashion-mnist.s3.eu-central-1.amazonaws.com",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        ],
    },
    DatasetInfo {
        name: "kmnist",
        description: "70,000 cursive Japanese characters of 28x28 pixels",
        source: "https://codh.rois.ac.jp/kmnist/, CC BY-SA 4.0",
        format: DatasetFormat::Idx,
        classes: &["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"],
        files: &[
            file(
                "train-images-idx3-ubyte.gz",
                18_165_135,
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                29_497,
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            ),
            file(
                "t10k-images-idx3-ubyte.gz",
                3_041_136,
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                5_120,
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
            ),
        ],
        mirrors: &["https://codh.rois.ac.jp/kmnist/dataset/kmnist"],
    },
    DatasetInfo {
        name: "cifar-10",
        description: "60,000 photos of 32x32 pixels in 10 classes",
        source: "A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html",
        format: DatasetFormat::Cifar10,
        classes: &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
        files: &[file(
            "cifar-10-binary.tar.gz",
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )],
        mirrors: &["https://www.cs.toronto.edu/~kriz"],
    },
    DatasetInfo {
        name: "cifar-100",
        description: "60,000 photos of 32x32 pixels in 100 classes",
        source: "A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html",
        format: DatasetFormat::Cifar100,
        classes: &[],
        files: &[file(
            "cifar-100-binary.tar.gz",
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        )],
        mirrors: &["https://www.cs.toronto.edu/~kriz"],
    },
    DatasetInfo {
        name: "folder",
        description: "your own images: the folder that contains an image is its class",
        ..own(DatasetFormat::Folder)
    },
    DatasetInfo {
        name: "tar",
        description: "your own images in a tar archive, or in a folder of archives",
        ..own(DatasetFormat::Tar)
    },
    DatasetInfo {
        name: "csv",
        description: "your own images, listed in a CSV file: path,label or path,label,split",
        ..own(DatasetFormat::Csv)
    },
    DatasetInfo {
        name: "idx",
        description: "your own images in IDX files with MNIST's file names",
        ..own(DatasetFormat::Idx)
    },
];

/// Source of formats of own images.
pub const OWN_FILES: &str = "your own files";

const fn own(format: DatasetFormat) -> DatasetInfo {
    DatasetInfo {
        name: "",
        description: "",
        source: OWN_FILES,
        format,
        classes: &[],
        files: &[],
        mirrors: &[],
    }
}

/// Names that timm gives to datasets of PyTorch, and to a folder of images.
const TIMM_NAMES: &[(&str, &str)] = &[
    ("torch/cifar10", "cifar-10"),
    ("torch/cifar100", "cifar-100"),
    ("torch/mnist", "mnist"),
    ("torch/fashion_mnist", "fashion-mnist"),
    ("torch/kmnist", "kmnist"),
    ("torch/image_folder", "folder"),
    ("torch/folder", "folder"),
    ("imagefolder", "folder"),
    ("image_folder", "folder"),
    ("imagetar", "tar"),
    ("image_tar", "tar"),
];

/// The name of a dataset, for timm's name of it; other names are unchanged.
pub fn canonical_name(name: &str) -> &str {
    let lower = name.to_lowercase();
    TIMM_NAMES.iter().find(|(timm, _)| *timm == lower).map_or(name, |(_, own)| own)
}

/// Reason and remedy if timm reads the dataset of a name with a library that Fornax does not have.
pub fn foreign_library(name: &str) -> Option<(&'static str, &'static str)> {
    let remedy = "export the images as a folder or tar archives, and pass them with --data-dir";
    let (prefix, _) = name.split_once('/')?;
    match prefix {
        "hfds" | "hfids" => Some(("it is read with Hugging Face's datasets, a Python library", remedy)),
        "tfds" => Some(("it is read with TensorFlow Datasets, a Python library", remedy)),
        "wds" => Some(("it is read with WebDataset, a Python library", remedy)),
        "torch" => Some(("this dataset of torchvision is not supported", remedy)),
        _ => None,
    }
}

/// The dataset of this name.
pub fn find(name: &str) -> Option<&'static DatasetInfo> {
    DATASETS.iter().find(|d| d.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_timm_are_understood_or_rejected_by_name() {
        for (timm, own) in TIMM_NAMES {
            assert!(find(own).is_some() && canonical_name(timm) == *own, "{timm}");
        }
        assert_eq!((canonical_name("ImageFolder"), canonical_name("digits")), ("folder", "digits"));
        for name in ["hfds/a/b", "tfds/imagenet2012", "wds/x", "torch/places365"] {
            assert!(foreign_library(name).is_some(), "{name}");
        }
        assert_eq!(foreign_library("photos"), None);
    }

    #[test]
    fn published_files_are_complete_and_encrypted() {
        for dataset in DATASETS {
            assert_eq!(dataset.files.is_empty(), dataset.mirrors.is_empty(), "{}", dataset.name);
            assert!(dataset.mirrors.iter().all(|url| url.starts_with("https://")), "{}", dataset.name);
            for file in dataset.files {
                assert!(file.size > 0 && file.sha256.len() == 64, "{}", file.name);
            }
        }
    }
}
