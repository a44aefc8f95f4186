//! `fornax datasets export`.
use super::args::DatasetArgs;
use super::{print, splits};
use crate::data::export::{ExportFormat, export, is_within};
use crate::message::count;
use crate::{Error, Result};
use std::path::PathBuf;

/// Arguments of `fornax datasets export`.
#[derive(clap::Args)]
pub struct ExportArgs {
    #[command(flatten)]
    dataset: DatasetArgs,
    /// Format
    #[arg(long, value_name = "FORMAT")]
    format: ExportFormat,
    /// New folder; it appears only when it is complete
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
}

/// Runs `fornax datasets export`.
pub fn execute(args: &ExportArgs) -> Result<()> {
    let options = args.dataset.options()?;
    if let Some(root) = options.root.as_ref().filter(|root| is_within(&args.output, root)) {
        return Err(Error::usage("the output is inside the dataset")
            .at_path(&args.output)
            .because(format!("nothing is ever written to a dataset, here {}", root.display()))
            .remedy("choose a folder outside of it with --output"));
    }
    if options.clip_len.is_some() {
        return Err(Error::usage("videos cannot be exported")
            .at("--clip-len")
            .because("an export holds one image for each sample")
            .remedy("copy the folder of the videos, or omit --clip-len to export every frame as an image"));
    }
    let data = options.open()?;
    data.notes.iter().for_each(|note| message!("{note}"));
    export(&data, args.format, args.dataset.channels(), &args.output)?;
    for (name, split) in splits(&data) {
        print(&format!("{name}: {} in {}\n", count(split.len() as u64, "image"), args.output.display()))?;
    }
    Ok(())
}
