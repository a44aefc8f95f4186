//! Format of a dataset, found from its files.
use super::cifar::CifarFormat;
use super::csv::csv_files;
use super::idx;
use crate::data::DatasetFormat;
use crate::data::files::files_with_extension;
use crate::data::split_names::SplitName;
use crate::{Error, Result};
use std::path::Path;

/// Format of the files in a folder, or of a single file.
pub fn detect(root: &Path) -> Result<DatasetFormat> {
    if !root.exists() {
        return Err(Error::data("the dataset is not found")
            .at_path(root)
            .because("no such file or folder")
            .remedy("check the path"));
    }
    let cifar = |format| match format {
        CifarFormat::Cifar10 => DatasetFormat::Cifar10,
        CifarFormat::Cifar100 => DatasetFormat::Cifar100,
    };
    if let Some(format) = CifarFormat::detect(root) {
        return Ok(cifar(format));
    }
    if root.is_file() {
        let extension = root.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        return match extension.as_str() {
            "tar" => Ok(DatasetFormat::Tar),
            "csv" => Ok(DatasetFormat::Csv),
            _ => Err(Error::data("the dataset has an unknown format")
                .at_path(root)
                .because("a file that is a dataset ends in .tar or .csv")
                .remedy("pass a folder of images, or decompress the archive")),
        };
    }
    if idx::find_split(root, &SplitName::new("train")).is_some() {
        return Ok(DatasetFormat::Idx);
    }
    if has_tars(root)? {
        return Ok(DatasetFormat::Tar);
    }
    match csv_files(root)?.is_empty() {
        false => Ok(DatasetFormat::Csv),
        true => Ok(DatasetFormat::Folder),
    }
}

/// True if a folder, or a split's folder in it, contains tar archives.
fn has_tars(root: &Path) -> Result<bool> {
    if !files_with_extension(root, "tar")?.is_empty() {
        return Ok(true);
    }
    match SplitName::new("train").subfolder(root) {
        Some(folder) => Ok(!files_with_extension(&folder, "tar")?.is_empty()),
        None => Ok(false),
    }
}
