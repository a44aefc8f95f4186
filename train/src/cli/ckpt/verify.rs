//! `fornax ckpt verify`.
use crate::cli::print;
use crate::weights::WeightsFile;
use crate::{Error, Result};
use fornax_engine::DType;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `fornax ckpt verify`.
#[derive(clap::Args)]
pub struct VerifyArgs {
    /// Checkpoints or other weights files, or run folders, for all of their checkpoints
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Print one JSON object per file
    #[arg(long)]
    json: bool,
}

pub fn execute(args: &VerifyArgs) -> Result<()> {
    let mut files = vec![];
    for path in &args.paths {
        files.extend(super::files_at(path)?);
    }
    let mut bad = vec![];
    for path in &files {
        let result = verify(path);
        print(&line(path, &result, args.json))?;
        bad.extend(result.err());
    }
    let (count, total) = (bad.len(), files.len());
    match bad.into_iter().next() {
        None => Ok(()),
        Some(only) if total == 1 => Err(only),
        Some(first) => Err(Error::checkpoint(format!("{count} of {total} files cannot be used"))
            .because(format!("the first: {}", first.why().unwrap_or(first.what())))
            .remedy("restore the files reported above, or remove them")),
    }
}

/// A file that passed.
struct Verified {
    tensors: usize,
    has_checksums: bool,
}

fn verify(path: &Path) -> Result<Verified> {
    let weights = WeightsFile::open(path)?;
    let has_checksums = weights.verify()?;
    let file = weights.parse()?;
    for (name, stored) in file.tensors().iter().filter(|(_, stored)| stored.dtype.is_float()) {
        let tensor = file.tensor(name).map_err(|e| Error::checkpoint(e.to_string()).at_path(path))?;
        let values = tensor.to_dtype(DType::F64)?;
        let bad = values.read::<f64>()?.iter().filter(|value| !value.is_finite()).count();
        if bad > 0 {
            let total = stored.shape.iter().product::<usize>();
            return Err(Error::checkpoint("the weights cannot be used")
                .at_path(path)
                .because(format!("{bad} of {total} elements of {name} are not finite"))
                .remedy("use an earlier checkpoint of the run"));
        }
    }
    Ok(Verified { tensors: file.tensors().len(), has_checksums })
}

fn line(path: &Path, result: &Result<Verified>, as_json: bool) -> String {
    let path = path.display().to_string();
    match (result, as_json) {
        (Ok(found), true) => {
            let object = json!({ "path": path, "ok": true, "tensors": found.tensors, "checksums": found.has_checksums });
            format!("{object}\n")
        }
        (Err(error), true) => {
            let why = error.why().unwrap_or(error.what());
            format!("{}\n", json!({ "path": path, "ok": false, "error": why }))
        }
        (Ok(Verified { tensors, has_checksums: true }), _) => {
            format!("{path}: ok, {tensors} tensors with matching checksums\n")
        }
        (Ok(Verified { tensors, .. }), _) => {
            format!("{path}: ok, {tensors} tensors; the file has no checksums\n")
        }
        (Err(error), _) => format!("{path}: {}\n", error.why().unwrap_or(error.what())),
    }
}
