//! The splits of a dataset, opened by its format.
use super::cifar::{self, CifarFormat};
use super::csv::{self, CsvColumns, csv_of_split};
use super::tar::TarSplits;
use super::video::{ClipOptions, VideoDataset};
use super::{folder, idx};
use crate::Result;
use crate::data::dataset::Dataset;
use crate::data::labels::ClassOrder;
use crate::data::split_names::SplitName;
use crate::data::subset::sorted_by_class;
use std::path::PathBuf;
use std::sync::Arc;

/// Split of a dataset, as opened by its format.
pub struct OpenSplit {
    pub dataset: Arc<dyn Dataset>,
    pub image_size: Option<[usize; 3]>,
    pub notes: Vec<String>,
}

/// Files of a dataset.
pub struct DatasetFiles {
    pub root: PathBuf,
    pub kind: FileKind,
    /// Class names of the registry.
    pub names: &'static [&'static str],
    pub input_key: Option<String>,
    pub columns: CsvColumns,
}

/// Format of the files, with its options.
pub enum FileKind {
    Folder,
    Video(ClipOptions),
    Tar(TarSplits),
    Csv,
    Idx,
    Cifar(CifarFormat),
}

impl DatasetFiles {
    /// True if own images have a split of this name. Published files have no other splits than those in use.
    pub fn has_split(&mut self, split: &SplitName) -> Result<bool> {
        match &mut self.kind {
            FileKind::Folder | FileKind::Video(_) => Ok(split.subfolder(&self.root).is_some()),
            FileKind::Tar(splits) => splits.has(split),
            FileKind::Csv => csv::has_split(&self.root, split, &self.columns),
            FileKind::Idx | FileKind::Cifar(_) => Ok(false),
        }
    }

    /// Opens a split, or all images without one; `None` if there is no such split.
    pub fn open(&mut self, split: Option<&SplitName>, order: &ClassOrder) -> Result<Option<OpenSplit>> {
        let encoded = |dataset, notes| OpenSplit { dataset, image_size: None, notes };
        match &mut self.kind {
            FileKind::Folder | FileKind::Video(_) => {
                let folder = match split {
                    None => self.root.clone(),
                    Some(split) => match split.subfolder(&self.root) {
                        None if self.root.is_dir() => return Ok(None),
                        None => self.root.clone(),
                        Some(folder) => folder,
                    },
                };
                if let FileKind::Video(options) = self.kind {
                    let (dataset, notes) = VideoDataset::open(&folder, options, order)?;
                    return Ok(Some(encoded(Arc::new(dataset), notes)));
                }
                let extensions: Option<Vec<&str>> = self.input_key.as_ref().map(|key| {
                    key.split(';').map(|extension| extension.trim().trim_start_matches('.')).collect()
                });
                let (dataset, notes) = folder::open(&folder, order, extensions.as_deref())?;
                Ok(Some(encoded(Arc::new(dataset), notes)))
            }
            FileKind::Tar(splits) => {
                let opened = splits.open(split, order)?;
                Ok(opened.map(|(dataset, notes)| encoded(Arc::new(dataset), notes)))
            }
            FileKind::Csv => {
                let Some(path) = csv_of_split(&self.root, split, &self.columns)? else { return Ok(None) };
                let opened = csv::open(&path, split, order, &self.columns)?;
                Ok(opened.map(|(dataset, notes)| encoded(Arc::new(dataset), notes)))
            }
            FileKind::Idx => {
                let train = SplitName::new("train");
                let split = split.unwrap_or(&train);
                let Some(paths) = idx::find_split(&self.root, split) else {
                    return match split.as_str() {
                        "train" => Err(idx::not_found(&self.root, split)),
                        _ => Ok(None),
                    };
                };
                let names: Vec<&str> = match order {
                    ClassOrder::Training(classes) => classes.iter().map(String::as_str).collect(),
                    _ => self.names.to_vec(),
                };
                let (dataset, size) = idx::open(&paths, &names)?;
                Ok(Some(OpenSplit {
                    dataset: sorted_by_class(dataset),
                    image_size: Some(size),
                    notes: vec![],
                }))
            }
            FileKind::Cifar(format) => {
                let train = SplitName::new("train");
                let opened = format.open(&self.root, split.unwrap_or(&train), self.names)?;
                let size = Some(cifar::SIZE);
                Ok(opened.map(|dataset| OpenSplit {
                    dataset: sorted_by_class(dataset),
                    image_size: size,
                    notes: vec![],
                }))
            }
        }
    }
}
