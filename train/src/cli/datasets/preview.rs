//! `fornax datasets preview`.
use super::print;
use crate::cli::output_file;
use crate::cli::train::RecipeArgs;
use crate::config::Config;
use crate::data::BadImagePolicy;
use crate::data::export::fast_png_bytes;
use crate::error::ErrorKind;
use crate::experiment::build::{self, RunData};
use crate::message::{count, is_or_are};
use crate::report::{CaptionedImage, class_name, full_size_grid, training_samples};
use crate::text::first_names;
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
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000), help_heading = "Output")]
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
    let samples = match args.split {
        PreviewSplit::Train => training(&mut config, &data, args.samples as usize)?,
        PreviewSplit::Validation => validation(&mut config, &data, args.samples as usize)?,
    };
    if samples.is_empty() {
        return Err(Error::data("the split has too few images").at(&data.splits.name));
    }
    output_file::write(
        &args.output,
        &fast_png_bytes(&full_size_grid(&samples, args.columns as usize, &data.splits.classes)),
    )?;
    print(&format!("{} in {}\n", count(samples.len() as u64, "image"), args.output.display()))
}

/// The first images of the first epoch. Bad ones are replaced, however many there are, or skipped by `--bad-image skip`.
fn training(config: &mut Config, data: &RunData, samples: usize) -> Result<Vec<CaptionedImage>> {
    config.batch_size = samples.min(data.splits.train.len());
    config.data.max_bad = 1.0;
    if config.augment.is_mixing() {
        // One choice for the whole batch would show either mixup or CutMix.
        config.augment.mix_by_pair();
        if config.batch_size % 2 == 1 {
            config.batch_size -= 1;
            message!("note: the last image is omitted: mixup and CutMix need pairs of images");
        }
    }
    if config.batch_size == 0 {
        return Ok(vec![]);
    }
    let loader = build::training_loader(config, data, Device::Cpu, 0)?;
    let batch = loader.batch(0, 0)?;
    let bad = loader.options().bad_images.as_ref().map_or(vec![], |bad| bad.found());
    let lines = bad.iter().map(|(_, bad)| format!("{}: {}", bad.location, bad.why));
    note_bad_images(
        lines.collect(),
        if config.data.bad_image == BadImagePolicy::Skip { "skipped" } else { "replaced" },
    );
    training_samples(&batch, &build::preparation(config, data), &data.splits.classes, config.batch_size)
}

/// The first images of the validation split without the bad ones.
fn validation(config: &mut Config, data: &RunData, samples: usize) -> Result<Vec<CaptionedImage>> {
    let loader = build::validation_loader(config, data, Device::Cpu, 0, None)?;
    let white = u32::from(data.input.statistics.white);
    let (mut captioned, mut bad) = (vec![], vec![]);
    for index in 0..samples.min(loader.dataset().len()) {
        match loader.image(index) {
            Ok(None) => bad.push(loader.dataset().location(index)),
            Ok(Some(mut image)) => {
                image
                    .pixels
                    .iter_mut()
                    .for_each(|value| *value = (u32::from(*value) * 255 / white).min(255) as u8);
                let label = class_name(&data.splits.classes, loader.dataset().target(index) as usize);
                captioned.push(CaptionedImage { image, label, note: None });
            }
            Err(error) if error.kind() == ErrorKind::Data => {
                bad.push(format!(
                    "{}: {}",
                    loader.dataset().location(index),
                    error.why().unwrap_or(error.what())
                ));
            }
            Err(error) => return Err(error),
        }
    }
    note_bad_images(bad, "skipped");
    Ok(captioned)
}

fn note_bad_images(bad: Vec<String>, how: &str) {
    if !bad.is_empty() {
        let (images, be) = (count(bad.len() as u64, "image"), is_or_are(bad.len() as u64));
        message!("note: {images} cannot be read and {be} {how}: {}", first_names(bad));
    }
}
