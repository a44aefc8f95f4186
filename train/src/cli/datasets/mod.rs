//! `fornax datasets`: list, inspect, verify, download, export and preview datasets.
mod args;
mod download;
mod export;
mod info;
mod preview;
mod verify;

use super::{print, table};
use crate::Result;
use crate::data::registry::OWN_FILES;
use crate::data::{DATASETS, Dataset, DatasetSplits};
use std::sync::Arc;

/// Commands of `fornax datasets`.
#[derive(clap::Args)]
#[command(after_help = FORMATS)]
pub struct DatasetsArgs {
    #[command(subcommand)]
    command: Option<DatasetsCommand>,
}

#[derive(clap::Subcommand)]
enum DatasetsCommand {
    /// List the datasets and formats (the default)
    List,
    /// Show splits, images per class and image sizes
    Info(info::InfoArgs),
    /// Decode every image, list the unreadable ones (exit code 3), and warn of identical images in several classes or splits
    Verify(verify::VerifyArgs),
    /// Download the files of a dataset, checked by size and SHA-256
    Download(download::DownloadArgs),
    /// Write a dataset as folders of PNGs, tar archives or IDX files
    Export(export::ExportArgs),
    /// Write a mosaic of transformed images, as they enter the model
    Preview(Box<preview::PreviewArgs>),
}

const FORMATS: &str = "\
Formats:
    folder    DIR/train/CLASS/IMAGE and DIR/val/CLASS/IMAGE; the innermost folder is the class
    tar       the same paths in DIR.tar, or tar archives in DIR; read in place, never unpacked
    csv       lines PATH,LABEL or PATH,LABEL,SPLIT
    idx       train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-..., gzipped or not
    cifar     the binary files or archives of CIFAR-10 and CIFAR-100
    video     DIR/train/CLASS/VIDEO/FRAME with --clip-len";

/// Runs `fornax datasets`.
pub fn execute(args: &DatasetsArgs) -> Result<()> {
    match &args.command {
        None | Some(DatasetsCommand::List) => list(),
        Some(DatasetsCommand::Info(args)) => info::execute(args),
        Some(DatasetsCommand::Verify(args)) => verify::execute(args),
        Some(DatasetsCommand::Download(args)) => download::execute(args),
        Some(DatasetsCommand::Export(args)) => export::execute(args),
        Some(DatasetsCommand::Preview(args)) => preview::execute(args),
    }
}

fn list() -> Result<()> {
    let mut rows = vec![["NAME", "DESCRIPTION", "FILES"].map(String::from).to_vec()];
    for d in DATASETS {
        let files = match (d.needs_files(), d.files) {
            (false, _) => "included",
            (true, []) => "--data-dir",
            (true, _) => "download",
        };
        rows.push([d.name, d.description, files].map(String::from).to_vec());
    }
    let published = DATASETS.iter().filter(|d| d.source != OWN_FILES);
    let sources: String = published.map(|d| format!("{}: {}\n", d.name, d.source)).collect();
    print(&format!("{}\nSources\n{sources}", table(&rows, &[])))
}

/// The splits of a dataset with their names.
fn splits(data: &DatasetSplits) -> Vec<(&'static str, &Arc<dyn Dataset>)> {
    let mut splits = vec![("train", &data.train)];
    splits.extend(data.validation.as_ref().map(|split| ("validation", split)));
    splits
}
