//! `fornax ckpt`: inspect, verify, compare, average, strip and convert checkpoints and other weights files.
mod average;
mod convert;
mod diff;
mod info;
mod strip;
mod verify;

use crate::hub::Hub;
use crate::weights::{WeightsFile, WeightsSource, is_weights_file};
use crate::{Error, Result};
use clap::Subcommand;
use std::fs;
use std::path::{Path, PathBuf};

/// Subcommands of `fornax ckpt`.
#[derive(Subcommand)]
pub enum CkptCommand {
    /// Show model, progress, metrics and tensors of a file
    Info(info::InfoArgs),
    /// Verify files: header, checksums, finite values
    Verify(verify::VerifyArgs),
    /// Compare the tensors and settings of two files
    Diff(diff::DiffArgs),
    /// Average the weights of several checkpoints, as timm's avg_checkpoints.py
    Average(average::AverageArgs),
    /// Save only the weights, without optimizer and training state, as a safetensors file that timm loads
    Strip(strip::StripArgs),
    /// Convert a PyTorch file to safetensors
    Convert(convert::ConvertArgs),
}

pub fn execute(command: &CkptCommand) -> Result<()> {
    match command {
        CkptCommand::Info(args) => info::execute(args),
        CkptCommand::Verify(args) => verify::execute(args),
        CkptCommand::Diff(args) => diff::execute(args),
        CkptCommand::Average(args) => average::execute(args),
        CkptCommand::Strip(args) => strip::execute(args),
        CkptCommand::Convert(args) => convert::execute(args),
    }
}

/// Opens a file, or the checkpoint `best`, else `last`, of a run folder.
fn open(path: &Path) -> Result<WeightsFile> {
    WeightsFile::open(&WeightsSource::Path(path.into()).resolve(&Hub::from_environment())?)
}

/// The weights files at a path: the file itself, the files of a run's `checkpoints/`, or of a folder, sorted by name.
fn files_at(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let checkpoints = path.join("checkpoints");
    let folder = if checkpoints.is_dir() { &checkpoints } else { path };
    let unusable = |why: String| {
        Error::checkpoint("the folder holds no checkpoints")
            .at_path(folder)
            .because(why)
            .remedy("pass a run folder, a folder of weights files, or the files themselves")
    };
    let entries = fs::read_dir(folder).map_err(|e| unusable(e.to_string()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths.filter(|path| is_weights_file(path)).collect();
    files.sort();
    match files.is_empty() {
        true => Err(unusable("no file in it ends in .safetensors, .pth, .pt or .pth.tar".into())),
        false => Ok(files),
    }
}
