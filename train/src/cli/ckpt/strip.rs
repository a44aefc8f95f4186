//! `fornax ckpt strip`.
use crate::cli::{output_file, print};
use crate::report::bytes;
use crate::weights::{Weights, WeightsFile, WeightsIdentity};
use crate::{Error, Result};
use fornax_engine::Tensor;
use fornax_nn::state_dict::to_safetensors;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Arguments of `fornax ckpt strip`.
#[derive(clap::Args)]
pub struct StripArgs {
    /// Checkpoint or other weights file, or a run folder, for its checkpoint `best`
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Output file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Save the EMA weights instead of the model's own
    #[arg(long)]
    use_ema: bool,
}

pub fn execute(args: &StripArgs) -> Result<()> {
    let file = super::open(&args.path)?;
    check_output(&args.output, &[&file])?;
    let weights = file.weights(args.use_ema)?;
    let tensors = tensors(&weights)?;
    let length = save(&args.output, &tensors, file.identity()?.as_ref())?;
    print(&format!(
        "saved {} tensors of {} to {}: {} instead of {}\n",
        tensors.len(),
        file.path().display(),
        args.output.display(),
        bytes(length),
        bytes(file.size() as u64)
    ))
}

/// All tensors, by the model's names. Notes entries that cannot be read.
pub fn tensors(weights: &Weights) -> Result<Vec<(String, Tensor)>> {
    weights.all_rejected().for_each(|(name, why)| message!("note: {name} is omitted: {why}"));
    weights.names().map(|name| Ok((name.clone(), weights.tensor(name)?))).collect()
}

/// Errors if the output would replace an input, which lacks the training state.
pub fn check_output(output: &Path, inputs: &[&WeightsFile]) -> Result<()> {
    let same = |path: &Path| matches!((path.canonicalize(), output.canonicalize()), (Ok(a), Ok(b)) if a == b);
    match inputs.iter().find(|input| same(input.path())) {
        None => Ok(()),
        Some(input) => Err(Error::usage("the output would replace an input")
            .at_path(input.path())
            .because("it would lose its training state")
            .remedy("choose another --output")),
    }
}

/// Writes weights as timm reads them, with what is known of their model in the metadata; returns the file's size in bytes.
pub fn save(path: &Path, tensors: &[(String, Tensor)], identity: Option<&WeightsIdentity>) -> Result<u64> {
    let mut metadata = identity.map_or_else(HashMap::new, WeightsIdentity::metadata);
    metadata.insert("format".to_string(), "pt".to_string());
    let bytes = to_safetensors(tensors, Some(metadata))
        .map_err(|e| Error::checkpoint(e.to_string()).at_path(path))?;
    output_file::write(path, &bytes)?;
    Ok(bytes.len() as u64)
}
