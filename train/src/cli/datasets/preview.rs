//! `fornax datasets preview`.
use super::print;
use crate::cli::output_file;
use crate::cli::train::RecipeArgs;
use crate::config::Config;
use crate::data::export::png_bytes;
use crate::data::mosaic::mosaic;
use crate::experiment::build;
use crate::message::count;
use crate::report::batch_images;
use crate::{Error, Result};
use clap::ValueEnum;
use fornax_engine::Device;
use std::path::PathBuf;

/// Arguments of `fornax datasets preview`: the recipe of `fornax train`, and the mosaic.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub struct PreviewArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// PNG file
    #[arg(long, short, value_name = "FILE", default_value = "preview.png", help_heading = "Output")]
    output: PathBuf,
    /// Split
    #[arg(long, value_name = "SPLIT", default_value = "train", help_heading = "Output")]
    split: PreviewSplit,
    /// Number of samples: the first of the first epoch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=10_000), help_heading = "Output")]
    samples: u32,
    /// Images per row
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Output")]
    columns: u32,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum PreviewSplit {
    /// Augmented, erased and mixed
    Train,
    /// Resized and cropped
    Validation,
}

/// Runs `fornax datasets preview`.
pub fn execute(args: &PreviewArgs) -> Result<()> {
    let mut config = Config::resolve(&args.recipe.settings()?)?;
    let data = build::open(&mut config)?;
    let samples = args.samples as usize;
    let loader = match args.split {
        PreviewSplit::Train => {
            // Even, as mixup needs it.
            config.batch_size = samples.min(data.splits.train.len()) / 2 * 2;
            build::training_loader(&config, &data, Device::Cpu, 0)?
        }
        PreviewSplit::Validation => {
            config.validation_batch_size = samples;
            build::validation_loader(&config, &data, Device::Cpu, 0, None)?
        }
    };
    if loader.batches() == 0 {
        return Err(Error::data("the split has too few images").at(&data.splits.name));
    }
    let images = batch_images(&loader.batch(0, 0)?, &build::preparation(&config, &data))?;
    output_file::write(&args.output, &png_bytes(&mosaic(&images, args.columns as usize)))?;
    print(&format!("{} in {}\n", count(images.len() as u64, "image"), args.output.display()))?;
    Ok(())
}
