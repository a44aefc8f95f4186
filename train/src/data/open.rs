//! Opening of a dataset: format, splits, class order, limits.
use super::dataset::Dataset;
use super::formats::{
    CifarFormat, ClipOptions, ClipSampling, CsvColumns, DatasetFiles, FileKind, OpenSplit, TarSplits, detect,
    digits,
};
use super::labels::{ClassOrder, read_class_map};
use super::problems;
use super::registry::{self, DatasetFormat, DatasetInfo};
use super::split_names::SplitName;
use super::statistics::ChannelStats;
use super::subset::{limited, stratified_split};
use crate::error::ErrorKind;
use crate::text::escape_control;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Options of a dataset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DatasetOptions {
    /// Name of the dataset or of its format (`--dataset`); `None` or empty: the format is found from the files, or the included digits if
    /// there is no `root`.
    pub name: Option<String>,
    /// Folder or file (`--data-dir`).
    pub root: Option<PathBuf>,
    /// Name of the training split; `None`: `train`, or the whole dataset if it is not divided.
    pub train_split: Option<String>,
    /// Name of the validation split; `None`: `validation` if there is one; empty: no validation.
    pub val_split: Option<String>,
    /// File of class names, one per line; images of other classes are ignored.
    pub class_map: Option<PathBuf>,
    /// Fraction of each class of the training split that is held out for validation. Errors if there is a validation split.
    pub val_fraction: Option<f64>,
    /// Maximum number of training samples.
    pub train_num_samples: Option<usize>,
    /// Maximum number of validation samples.
    pub val_num_samples: Option<usize>,
    /// Column of the paths in a CSV list, or extensions of the images in a folder, separated by `;` (`--input-key`).
    pub input_key: Option<String>,
    /// Column of the labels in a CSV list (`--target-key`).
    pub target_key: Option<String>,
    /// Input channels of the network, 1 or 3; `None`: those of the images.
    pub channels: Option<usize>,
    /// Frames per clip, for videos as folders of frames; `None`: single images.
    pub clip_len: Option<usize>,
    /// Choice of the frames of a clip.
    pub clip_sampling: ClipSampling,
}

/// Training and validation split of a dataset.
#[derive(Clone)]
pub struct DatasetSplits {
    /// Name or path of the dataset.
    pub name: String,
    /// Training split.
    pub train: Arc<dyn Dataset>,
    /// Validation split, if there is one.
    pub validation: Option<Arc<dyn Dataset>>,
    /// Class names, in the order of the logits.
    pub classes: Vec<String>,
    /// Channel statistics of the training split, for the channels that were requested; `None` for image files, which are normalised with
    /// the constants of the model.
    pub statistics: Option<ChannelStats>,
    /// Height, width and channels of all images, if they are the same and known without decoding; the channels are the requested
    /// ones.
    pub image_size: Option<[usize; 3]>,
    /// Notes about samples that are ignored.
    pub notes: Vec<String>,
}

impl DatasetSplits {
    /// Checks that a classifier can be trained. Errors if there is only one class.
    pub fn check_trainable(&self) -> Result<()> {
        match &self.classes[..] {
            [only] => Err(Error::data("the dataset has only one class")
                .at(&self.name)
                .because(format!("every image is in the class {only:?}, so there is nothing to learn"))
                .remedy("add images of at least one other class, or pass the folder above this one")),
            _ => Ok(()),
        }
    }
}

impl DatasetOptions {
    /// Format of the dataset, by its name or by the files of `root`. Errors if the name is unknown or the files have no known format.
    pub fn format(&self) -> Result<DatasetFormat> {
        match (self.name.as_deref().unwrap_or(""), &self.root) {
            ("", None) => Ok(DatasetFormat::Digits),
            ("", Some(root)) => detect(root),
            (name, _) => Ok(registry::find(name).ok_or_else(|| unknown(name))?.format),
        }
    }

    /// Opens the dataset.
    pub fn open(&self) -> Result<DatasetSplits> {
        self.check()?;
        let name = self.name.as_deref().unwrap_or("");
        let info = match name {
            "" => None,
            name => Some(registry::find(name).ok_or_else(|| unknown(name))?),
        };
        match (info, &self.root) {
            (None, None) => self.digits(&registry::DATASETS[0]),
            (Some(info), None) if !info.needs_files() => self.digits(info),
            (Some(info), None) if !info.files.is_empty() && info.download_folder().is_dir() => {
                let root = info.download_folder();
                let mut opened = self.open_files(Some(info), &root, info.format)?;
                opened.notes.push(format!("the files are read from {}", root.display()));
                Ok(opened)
            }
            (Some(info), None) => Err(Error::usage(format!("--dataset {} needs --data-dir", info.name))
                .because("its files are not included in the program")
                .remedy(match info.files {
                    [] => "pass the folder of the files with --data-dir".to_string(),
                    _ => format!(
                        "download it with `fornax datasets download {}` and pass its folder with --data-dir; source: {}",
                        info.name, info.source
                    ),
                })),
            (Some(info), Some(root)) if !info.needs_files() => {
                Err(Error::usage(format!("--data-dir has no effect on --dataset {}", info.name))
                    .at_path(root)
                    .because("this dataset is included in the program")
                    .remedy("omit --data-dir, or choose the folder's dataset with --dataset"))
            }
            (info, Some(root)) => {
                let format = match info {
                    Some(info) => info.format,
                    None => detect(root)?,
                };
                self.open_files(info, root, format)
            }
        }
    }

    fn check(&self) -> Result<()> {
        let fail = |flag: &str, why: &str| Err(Error::usage(format!("{flag} {why}")));
        if self.val_fraction.is_some_and(|fraction| !(fraction > 0.0 && fraction < 1.0)) {
            return fail("--val-fraction", "must be above 0 and below 1");
        }
        if self.channels.is_some_and(|channels| channels != 1 && channels != 3) {
            return Err(Error::usage("images have 1 or 3 channels")
                .at("--in-chans")
                .because(format!("{} were requested", self.channels.unwrap_or_default()))
                .remedy("pass 1 for grey or 3 for RGB"));
        }
        if self.clip_len == Some(0) {
            return fail("--clip-len", "must be at least 1");
        }
        if self.val_fraction.is_some() && self.val_split.as_deref().is_some_and(|name| !name.is_empty()) {
            return Err(
                Error::usage("--val-fraction and --val-split exclude each other").remedy("omit one of them")
            );
        }
        Ok(())
    }

    fn digits(&self, info: &DatasetInfo) -> Result<DatasetSplits> {
        let given = [
            ("--train-split", self.train_split.is_some()),
            ("--val-split", self.val_split.as_deref().is_some_and(|name| !name.is_empty())),
            ("--class-map", self.class_map.is_some()),
            ("--input-key", self.input_key.is_some()),
            ("--target-key", self.target_key.is_some()),
            ("--val-fraction", self.val_fraction.is_some()),
            ("--clip-len", self.clip_len.is_some()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Error::usage(format!("{flag} has no effect on the included digits"))
                .because("their splits and classes are fixed")
                .remedy(format!("omit {flag}, or pass other images with --data-dir")));
        }
        let [train, validation] = digits::open(info.classes)?;
        let open = |dataset| OpenSplit { dataset, image_size: Some([8, 8, 1]), notes: vec![] };
        let validation = (self.val_split.as_deref() != Some("")).then(|| open(validation));
        self.finish(info.name.into(), open(train), validation, digits::MAX_VALUE)
    }

    fn open_files(
        &self,
        info: Option<&DatasetInfo>,
        root: &Path,
        format: DatasetFormat,
    ) -> Result<DatasetSplits> {
        let clip = self.clip_len.map(|length| ClipOptions { length, sampling: self.clip_sampling });
        let kind = match (format, clip) {
            (DatasetFormat::Folder, None) => FileKind::Folder,
            (DatasetFormat::Folder, Some(options)) => FileKind::Video(options),
            (_, Some(_)) => {
                return Err(Error::usage("--clip-len needs videos as folders of frames")
                    .at_path(root)
                    .because("the dataset is not a folder of images")
                    .remedy("omit --clip-len, or pass a folder of class/video/frame.jpg"));
            }
            (DatasetFormat::Tar, None) => FileKind::Tar(TarSplits::new(root)),
            (DatasetFormat::Csv, None) => FileKind::Csv,
            (DatasetFormat::Idx, None) => FileKind::Idx,
            (DatasetFormat::Cifar10, None) => FileKind::Cifar(CifarFormat::Cifar10),
            (DatasetFormat::Cifar100, None) => FileKind::Cifar(CifarFormat::Cifar100),
            (DatasetFormat::Digits, None) => return self.digits(&registry::DATASETS[0]),
        };
        let names = info.map_or(&[][..], |info| info.classes);
        if self.class_map.is_some() && matches!(kind, FileKind::Idx | FileKind::Cifar(_)) {
            return Err(Error::usage("--class-map has no effect on this format")
                .at_path(root)
                .because("its files have class indices, not names")
                .remedy("omit --class-map"));
        }
        self.check_keys(root, &kind)?;
        let columns = CsvColumns { input: self.input_key.clone(), target: self.target_key.clone() };
        let mut files =
            DatasetFiles { root: root.into(), kind, names, input_key: self.input_key.clone(), columns };
        let order = match &self.class_map {
            Some(path) => ClassOrder::Map(read_class_map(&class_map_path(path, root))?),
            None => ClassOrder::Found,
        };
        let (mut train, validation) = self.open_splits(&mut files, order)?;
        train.notes.extend(self.unused_test_note(&mut files)?);
        self.finish(
            info.map_or_else(
                || escape_control(&root.display().to_string()).into_owned(),
                |info| info.name.into(),
            ),
            train,
            validation,
            255,
        )
    }

    fn check_keys(&self, root: &Path, kind: &FileKind) -> Result<()> {
        let used = match kind {
            FileKind::Csv => [true, true],
            FileKind::Folder => [true, false],
            _ => [false, false],
        };
        let given = [("--input-key", &self.input_key), ("--target-key", &self.target_key)];
        match given.iter().zip(used).find(|((_, key), used)| key.is_some() && !used) {
            None => Ok(()),
            Some(((flag, _), _)) => Err(Error::usage(format!("{flag} has no effect on this format"))
                .at_path(root)
                .because(
                    "only CSV lists have named columns, and only folders have files of several extensions",
                )
                .remedy(format!("omit {flag}"))),
        }
    }

    /// Note about a test split that is neither trained on nor validated on.
    fn unused_test_note(&self, files: &mut DatasetFiles) -> Result<Option<String>> {
        let test = SplitName::new("test");
        let is_test =
            |name: &Option<String>| name.as_deref().is_some_and(|name| test.candidates().contains(&name));
        let is_divided = files.has_split(&SplitName::new(self.train_split.as_deref().unwrap_or("train")))?;
        if !is_divided || is_test(&self.train_split) || is_test(&self.val_split) || !files.has_split(&test)? {
            return Ok(None);
        }
        Ok(Some("the test split is not used; `fornax val --split test` evaluates it".into()))
    }

    fn open_splits(
        &self,
        files: &mut DatasetFiles,
        order: ClassOrder,
    ) -> Result<(OpenSplit, Option<OpenSplit>)> {
        let train_name = SplitName::new(self.train_split.as_deref().unwrap_or("train"));
        let val_name = SplitName::new(self.val_split.as_deref().unwrap_or("validation"));
        let wants_validation = self.val_split.as_deref() != Some("");
        let divided = match files.open(Some(&train_name), &order) {
            Err(problem) if problem.kind() == ErrorKind::Data && wants_validation => {
                // The problems of both splits in one report.
                let of_validation = files.open(Some(&val_name), &order).err();
                return Err(problems::report(
                    [Some(problem), of_validation].into_iter().flatten().collect(),
                    &files.root,
                ));
            }
            divided => divided?,
        };
        let of_training = |train: &OpenSplit| match &order {
            ClassOrder::Map(_) => order.clone(),
            _ => ClassOrder::Training(train.dataset.classes().into()),
        };
        let not_found = |files: &DatasetFiles, name: &SplitName, flag: &str| {
            Error::data(format!("the split {:?} is not found", name.as_str()))
                .at_path(&files.root)
                .because(format!(
                    "it has none of {}{}",
                    name.candidates().join(", "),
                    match &subfolders(&files.root)[..] {
                        [] => String::new(),
                        found => format!("; its subfolders are {}", found.join(", ")),
                    }
                ))
                .remedy(format!("check the folder, or name the split with {flag}"))
        };
        let Some(train) = divided else {
            // Folders of other splits show that the root is divided: its images are not all for training.
            let other = wants_validation && files.open(Some(&val_name), &order)?.is_some();
            if self.train_split.is_some() || other {
                return Err(not_found(files, &train_name, "--train-split"));
            }
            if self.val_split.is_some() && wants_validation {
                return Err(not_found(files, &val_name, "--val-split"));
            }
            let all =
                files.open(None, &order)?.ok_or_else(|| not_found(files, &train_name, "--train-split"))?;
            return self.hold_out(all);
        };
        if !wants_validation {
            return self.hold_out(train);
        }
        match files.open(Some(&val_name), &of_training(&train))? {
            Some(_) if self.val_fraction.is_some() => {
                Err(Error::usage("--val-fraction would have no effect")
                    .at_path(&files.root)
                    .because("the dataset has a validation split")
                    .remedy("omit --val-fraction, or ignore the validation split with --val-split ''"))
            }
            Some(validation) => Ok((train, Some(validation))),
            None if self.val_split.is_some() => Err(not_found(files, &val_name, "--val-split")),
            None => self.hold_out(train),
        }
    }

    /// Divides the only split, if a fraction is to be held out.
    fn hold_out(&self, all: OpenSplit) -> Result<(OpenSplit, Option<OpenSplit>)> {
        let Some(fraction) = self.val_fraction else { return Ok((all, None)) };
        let (train, validation) = stratified_split(all.dataset, fraction);
        if validation.is_empty() {
            return Err(Error::data("no image can be held out for validation")
                .because("every class has a single image, which is needed for training")
                .remedy("add images, or a validation split"));
        }
        let split = |dataset, notes| OpenSplit { dataset, image_size: all.image_size, notes };
        Ok((split(train, all.notes), Some(split(validation, vec![]))))
    }

    fn finish(
        &self,
        name: String,
        train: OpenSplit,
        validation: Option<OpenSplit>,
        white: u8,
    ) -> Result<DatasetSplits> {
        let mut image_size = train.image_size;
        if let Some(validation) = &validation
            && validation.image_size != image_size
        {
            let why = format!(
                "{:?} to train, {:?} to validate",
                train.image_size.unwrap_or_default(),
                validation.image_size.unwrap_or_default()
            );
            let what = "the training and validation images differ in size";
            return Err(Error::data(what).at(name).because(why).remedy("use files of the same dataset"));
        }
        let mut notes = train.notes;
        let limit = |dataset, count: Option<usize>| match count {
            Some(count) => limited(dataset, count),
            None => dataset,
        };
        let classes = train.dataset.classes().to_vec();
        let train = limit(train.dataset, self.train_num_samples);
        if train.is_empty() {
            return Err(Error::data("the training split has no samples")
                .at(name)
                .remedy("raise --train-num-samples"));
        }
        let validation = validation.map(|split| {
            notes.extend(split.notes.iter().map(|note| format!("validation: {note}")));
            limit(split.dataset, self.val_num_samples)
        });
        if validation.as_ref().is_some_and(|split| split.is_empty()) {
            return Err(Error::data("the validation split has no samples")
                .at(name)
                .because("its accuracy selects the best checkpoint")
                .remedy("raise --val-num-samples (--num-samples of `fornax val`), or choose another split"));
        }
        let mut statistics = None;
        if let Some([.., own]) = &mut image_size {
            *own = self.channels.unwrap_or(*own);
            statistics = Some(ChannelStats::of(&*train, white, *own)?);
        }
        Ok(DatasetSplits { name, train, validation, classes, statistics, image_size, notes })
    }
}

/// Names of the subfolders of a dataset, which may be splits, at most ten.
fn subfolders(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    if names.len() > 10 {
        names.truncate(10);
        names.push("…".into());
    }
    names
}

/// Path of a class map: as in timm, one that does not exist is looked up in the dataset's folder.
pub(crate) fn class_map_path(path: &Path, root: &Path) -> PathBuf {
    let inside = root.join(path);
    if !path.exists() && inside.is_file() { inside } else { path.into() }
}

fn unknown(name: &str) -> Error {
    if let Some((why, remedy)) = registry::foreign_library(name) {
        return Error::usage(format!("the dataset {name:?} is not supported"))
            .at("--dataset")
            .because(why)
            .remedy(remedy);
    }
    let names: Vec<&str> = registry::DATASETS.iter().map(|d| d.name).collect();
    let error = Error::usage(format!("unknown dataset {name:?}")).at("--dataset");
    error.because(format!("the datasets are {}", names.join(", "))).remedy(
        match crate::nearest::nearest(name, names) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "choose one of these".into(),
        },
    )
}
