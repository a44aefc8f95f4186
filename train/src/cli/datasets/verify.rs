//! `fornax datasets verify`.
use super::args::DatasetArgs;
use super::{print, splits};
use crate::data::{Dataset, Image, SampleImage};
use crate::report::thousands;
use crate::{Error, Result};
use rayon::prelude::*;

/// Arguments of `fornax datasets verify`.
#[derive(clap::Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    dataset: DatasetArgs,
}

/// Runs `fornax datasets verify`.
pub fn execute(args: &VerifyArgs) -> Result<()> {
    let data = args.dataset.options()?.open()?;
    let (mut bad, mut total) = (0, 0);
    for (name, split) in splits(&data) {
        let dataset = &**split;
        let found: Vec<(usize, String)> = (0..dataset.len())
            .into_par_iter()
            .filter_map(|index| Some((index, defect(dataset, index)?)))
            .collect();
        for (index, why) in &found {
            print(&format!("{}: {}\n", dataset.location(*index), why.replace('\n', " ")))?;
        }
        let count = thousands(dataset.len() as u64);
        message!("{name}: {} of {count} samples are corrupt", thousands(found.len() as u64));
        bad += found.len();
        total += dataset.len();
    }
    match bad {
        0 => Ok(()),
        bad => Err(Error::data(format!("{bad} of {total} samples are corrupt"))
            .at(&data.name)
            .because("they cannot be read or decoded")
            .remedy("replace or remove the files listed on stdout, or train with --bad-image replace")),
    }
}

/// The reason why a sample cannot be read, if there is one. All frames of a clip are decoded.
fn defect(dataset: &dyn Dataset, index: usize) -> Option<String> {
    let images = match dataset.clip(index, None) {
        Ok(images) => images,
        Err(error) => return Some(error.why().unwrap_or(error.what()).into()),
    };
    images.into_iter().find_map(|image| match image {
        SampleImage::Decoded(_) => None,
        SampleImage::Encoded(bytes) => Image::decode(&bytes, 3).err(),
    })
}
