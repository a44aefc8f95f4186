//! `fornax ckpt convert`.
use super::strip;
use crate::cli::print;
use crate::report::bytes;
use crate::settings::Settings;
use crate::weights::WeightsIdentity;
use crate::{Error, Result};
use fornax_nn::models::find_model;
use std::path::PathBuf;

/// Arguments of `fornax ckpt convert`.
#[derive(clap::Args)]
pub struct ConvertArgs {
    /// PyTorch file (.pth, .pt, .pth.tar, .ckpt) or other weights file
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Output file [default: PATH with the extension .safetensors]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Convert the EMA weights instead of the model's own
    #[arg(long)]
    use_ema: bool,
    /// Model name to write into the file [default: as in PATH]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
}

pub fn execute(args: &ConvertArgs) -> Result<()> {
    let file = super::open(&args.path)?;
    let output = args.output.clone().unwrap_or_else(|| {
        let stem = file.path().with_extension("");
        // Of `.pth.tar`.
        let stem = if stem.extension().is_some_and(|e| e == "pth") { stem.with_extension("") } else { stem };
        PathBuf::from(format!("{}.safetensors", stem.display()))
    });
    strip::check_output(&output, &[&file])?;
    let mut identity = file.identity()?;
    if let Some(name) = &args.model {
        let info = find_model(name).map_err(|e| Error::usage(e.to_string()).at("--model"))?;
        let known = identity.unwrap_or_default();
        let settings = Settings { model: Some(info.name.into()), ..known.settings };
        identity = Some(WeightsIdentity { settings, ..known });
    }
    let tensors = strip::tensors(&file.weights(args.use_ema)?)?;
    let length = strip::save(&output, &tensors, identity.as_ref())?;
    if !args.use_ema && file.has_ema()? {
        message!("note: the file also has EMA weights; --use-ema converts them");
    }
    print(&format!(
        "converted {} tensors of {} to {}: {}\n",
        tensors.len(),
        file.path().display(),
        output.display(),
        bytes(length)
    ))
}
