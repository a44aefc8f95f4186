//! Formats of datasets.
mod cifar;
mod csv;
mod detect;
pub mod digits;
mod folder;
pub mod idx;
mod split_files;
mod tar;
mod video;

pub use cifar::CifarFormat;
pub use csv::CsvColumns;
pub use detect::detect;
pub use split_files::{DatasetFiles, FileKind, OpenSplit};
pub use tar::TarSplits;
pub use video::{ClipOptions, ClipSampling};
