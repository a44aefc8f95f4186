//! Settings of an evaluation: those of the command line, completed by those of the weights.
use super::args::{EVALUATION_SETTINGS, ValArgs};
use super::results::ResultsFormat;
use crate::config::IgnoredOption;
use crate::settings::{AUTO_BATCH_SIZE, Settings, definition};
use crate::weights::WeightsIdentity;
use crate::{Error, Result};
use fornax_nn::models::PretrainedCfg;

/// Settings that a checkpoint's dataset loses if another dataset is given.
const DATASET_SETTINGS: [&str; 9] = [
    "dataset",
    "data_dir",
    "train_split",
    "val_split",
    "val_fraction",
    "class_map",
    "train_num_samples",
    "val_num_samples",
    "epoch_repeats",
];

/// Settings of the command line that an evaluation depends on, and the other options.
pub fn given(args: &ValArgs) -> Result<(Settings, Vec<IgnoredOption>)> {
    let mut ignored = args.timm.ignored()?;
    let is_used = |name: &str| EVALUATION_SETTINGS.contains(&name);
    for (name, value) in args.settings.given() {
        if name == "seed" {
            ignored.push(IgnoredOption::new(name, "an evaluation takes no random numbers"));
        } else if !is_used(&name) && !definition(&name).is_default(&value) {
            ignored.push(IgnoredOption::new(name, "an evaluation does not depend on it"));
        }
    }
    let mut given = args.settings.filtered(is_used);
    if given.batch_size == Some(AUTO_BATCH_SIZE) {
        return Err(Error::usage("--batch-size auto is an option of `fornax train`")
            .because("it measures the memory of a training step")
            .remedy("use a number"));
    }
    if given.batch_size.is_some() && given.validation_batch_size.is_some() {
        ignored.push(IgnoredOption::new("validation_batch_size", "--batch-size is given"));
    }
    if given.pretrained == Some(true) && !args.checkpoint.is_empty() {
        given.pretrained = None;
        ignored.push(IgnoredOption::new("pretrained", "--checkpoint is given"));
    }
    if args.results_file.is_none() && args.results_format != ResultsFormat::Csv {
        ignored.push(IgnoredOption::new("results_format", "--results-file is not given"));
    }
    given.validation_batch_size = given.batch_size.take().or(given.validation_batch_size);
    given.val_split = args.split.clone().or(given.val_split);
    given.val_num_samples = args.num_samples.or(given.val_num_samples);
    if let Some(folder) = &args.dir {
        if given.data_dir.is_some() {
            return Err(Error::usage("the dataset root is given twice")
                .at(format!("{} and --data-dir", folder.display()))
                .remedy("use one of the two"));
        }
        let named = folder.to_str().and_then(crate::data::find);
        match named.filter(|info| !info.needs_files() && !folder.exists()) {
            Some(included) => given.dataset = Some(included.name.into()),
            None => given.data_dir = Some(folder.clone()),
        }
    }
    Ok((given, ignored))
}

/// True if a dataset is given.
pub fn has_dataset(given: &Settings) -> bool {
    given.dataset.is_some() || given.data_dir.is_some()
}

/// The given settings, completed by those of the weights: of their run, or of their model and input.
pub fn merged(given: &Settings, identity: &WeightsIdentity) -> Settings {
    let of_weights = identity.settings.filtered(|key| {
        let is_replaced = has_dataset(given) && DATASET_SETTINGS.contains(&key);
        let is_default = key == "exif_orientation" && identity.settings.exif_orientation == Some(false);
        !(is_replaced || is_default)
    });
    given.clone().over(of_weights)
}

/// The input of validate.py for weights that do not say theirs: timm's test size and test crop, or those of training.
pub fn default_input(cfg: &PretrainedCfg, use_train_size: bool) -> Settings {
    if use_train_size {
        return Settings::default();
    }
    let size = cfg.test_input_size.map(|[h, w]| vec![3, h, w]);
    Settings { input_size: size, crop_pct: cfg.test_crop_pct, ..Settings::default() }
}
