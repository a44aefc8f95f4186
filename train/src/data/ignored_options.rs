//! Dataset options without effect on the format of a dataset.
use super::formats::{CsvColumns, DatasetFiles, FileKind, TarSplits};
use super::open::DatasetOptions;
use super::registry::{self, DatasetFormat};
use super::split_names::SplitName;

const INCLUDED: &str = "the dataset is included in the program, with fixed splits and classes";
const INDICES: &str = "the files of this dataset have class indices, not names";
const NO_KEYS: &str =
    "only CSV lists have named columns, and only folders of images have files of several extensions";
const HAS_VALIDATION: &str = "the dataset has a validation split";

/// Option without effect and the reason.
pub type IgnoredDatasetOption = (&'static str, &'static str);

impl DatasetOptions {
    /// The options that have an effect, and the others. What cannot be decided because the files cannot be read is kept: opening reports the
    /// error.
    pub fn without_ignored(&self) -> (DatasetOptions, Vec<IgnoredDatasetOption>) {
        let (mut used, mut ignored) = (self.clone(), vec![]);
        let Ok(format) = self.format() else { return (used, ignored) };
        let is_included = format == DatasetFormat::Digits;
        let has_indices =
            matches!(format, DatasetFormat::Idx | DatasetFormat::Cifar10 | DatasetFormat::Cifar100);
        let has_extensions = format == DatasetFormat::Folder && self.clip_len.is_none();
        let mut ignore = |is_given: bool, name, why| {
            if is_given {
                ignored.push((name, why));
            }
            is_given
        };
        let has_split = used.val_split.as_deref().is_some_and(|name| !name.is_empty());
        if is_included {
            if ignore(used.root.is_some(), "data_dir", INCLUDED) {
                used.root = None;
            }
            if ignore(used.train_split.is_some(), "train_split", INCLUDED) {
                used.train_split = None;
            }
            if ignore(has_split, "val_split", INCLUDED) {
                used.val_split = None;
            }
        }
        if is_included || has_indices {
            let why = if is_included { INCLUDED } else { INDICES };
            if ignore(used.class_map.is_some(), "class_map", why) {
                used.class_map = None;
            }
        }
        let why = if is_included { INCLUDED } else { NO_KEYS };
        if !has_extensions
            && format != DatasetFormat::Csv
            && ignore(used.input_key.is_some(), "input_key", why)
        {
            used.input_key = None;
        }
        if format != DatasetFormat::Csv && ignore(used.target_key.is_some(), "target_key", why) {
            used.target_key = None;
        }
        let why = if is_included { INCLUDED } else { HAS_VALIDATION };
        if used.val_fraction.is_some()
            && (is_included || used.has_validation_split(format))
            && ignore(true, "val_fraction", why)
        {
            used.val_fraction = None;
        }
        (used, ignored)
    }

    /// True if the files have a validation split that is used by default.
    fn has_validation_split(&self, format: DatasetFormat) -> bool {
        let of_name = self.name.as_deref().filter(|name| !name.is_empty()).and_then(registry::find);
        let root = self.root.clone().or_else(|| Some(of_name?.download_folder()));
        let (None, Some(root)) = (&self.val_split, root) else { return false };
        let kind = match format {
            DatasetFormat::Folder => FileKind::Folder,
            DatasetFormat::Tar => FileKind::Tar(TarSplits::new(&root)),
            DatasetFormat::Csv => FileKind::Csv,
            // Published files have both splits.
            _ => return true,
        };
        let columns = CsvColumns { input: self.input_key.clone(), target: self.target_key.clone() };
        let mut files = DatasetFiles { root, kind, names: &[], input_key: self.input_key.clone(), columns };
        let mut has = |name: &str| files.has_split(&SplitName::new(name)).unwrap_or(false);
        has(self.train_split.as_deref().unwrap_or("train")) && has("validation")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(options: &DatasetOptions) -> Vec<&'static str> {
        let (used, ignored) = options.without_ignored();
        assert_eq!(used.without_ignored().1, [], "the others have an effect");
        ignored.into_iter().map(|(name, _)| name).collect()
    }

    fn all() -> DatasetOptions {
        DatasetOptions {
            train_split: Some("a".into()),
            class_map: Some("map.txt".into()),
            input_key: Some("a".into()),
            target_key: Some("b".into()),
            val_fraction: Some(0.5),
            ..DatasetOptions::default()
        }
    }

    #[test]
    fn included_dataset_has_fixed_splits_and_classes() {
        let digits = DatasetOptions { name: Some("digits".into()), root: Some("x".into()), ..all() };
        let expected = ["data_dir", "train_split", "class_map", "input_key", "target_key", "val_fraction"];
        assert_eq!(names(&digits), expected);
        digits.without_ignored().0.open().expect("opens without them");
        assert_eq!(names(&DatasetOptions::default()), [""; 0]);
    }

    #[test]
    fn folder_has_no_columns_and_needs_no_fraction_with_a_validation_split() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = DatasetOptions { root: Some(folder.path().into()), train_split: None, ..all() };
        for split in ["train", "other"] {
            let class = folder.path().join(split).join("cat");
            fs::create_dir_all(&class).expect("a folder");
            fs::write(class.join("1.jpg"), b"").expect("writes");
        }
        assert_eq!(names(&options), ["target_key"]);
        fs::create_dir_all(folder.path().join("val/cat")).expect("a folder");
        assert_eq!(names(&options), ["target_key", "val_fraction"]);
        assert_eq!(names(&DatasetOptions { val_split: Some(String::new()), ..options }), ["target_key"]);
    }
}
