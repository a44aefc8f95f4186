//! Dataset and loader of a run.
use crate::data::decode::Gray16;
use crate::data::{BadImagePolicy, DatasetOptions, bad_images, canonical_name};
use crate::settings::{DefaultSet, ImageMode, Settings};
use crate::{Error, Result};
use std::time::Duration;

/// Default fraction of each class that is held out for validation if there is no validation split.
pub const DEFAULT_VAL_FRACTION: f64 = 0.1;

/// timm's default of `--train-split`.
const DEFAULT_TRAIN_SPLIT: &str = "train";
/// timm's default of `--val-split`.
const DEFAULT_VAL_SPLIT: &str = "validation";

/// Dataset and loader configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct DataConfig {
    /// Options of the dataset.
    pub dataset: DatasetOptions,
    /// Rotates and mirrors images as their EXIF orientation says.
    pub exif_orientation: bool,
    /// Conversion of 16-bit grey images to 8 bits.
    pub gray16: Gray16,
    /// Policy for training images that cannot be decoded; a bad validation image is always an error.
    pub bad_image: BadImagePolicy,
    /// Largest fraction of bad training images.
    pub max_bad: f64,
    /// Loader threads.
    pub workers: usize,
    /// Batches that the loader prepares ahead.
    pub prefetch: usize,
    /// Time without a batch after which a stalled loader is an error.
    pub timeout: Duration,
    /// Normalises, mixes and erases on the loader threads.
    pub prepare_on_host: bool,
    /// Passes over the training images per epoch.
    pub epoch_repeats: f64,
    /// Repeated augmentation: copies of each image in the batches of all ranks; 1 for none.
    pub aug_repeats: usize,
}

impl DataConfig {
    /// Resolves the settings. Errors on contradictions.
    pub(super) fn new(given: &Settings) -> Result<DataConfig> {
        let channels = given.input_size.as_ref().map(|size| size[0]).or(given.in_chans);
        if let (Some(mode), Some(channels)) = (given.input_img_mode, channels)
            && mode.channels() != channels
        {
            return Err(Error::usage(format!("{channels} input channels contradict --input-img-mode"))
                .because(format!("images of that mode have {} channels", mode.channels()))
                .remedy("use one of the two"));
        }
        if let Some(repeats) = given.epoch_repeats.filter(|repeats| *repeats > 0.0 && *repeats < 1.0) {
            return Err(Error::usage(format!("{repeats} passes over the training images are too few"))
                .at("--epoch-repeats")
                .because("an epoch has at least one pass")
                .remedy("use at least 1, or shorten the epochs with --train-batches-per-epoch"));
        }
        if given.prefetch == Some(0) {
            return Err(Error::usage("the loader prepares at least one batch ahead")
                .at("--prefetch")
                .because("0 is given")
                .remedy("use at least 1, or load on the training thread with --workers 0"));
        }
        let is_timm = given.defaults == Some(DefaultSet::Timm);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(DataConfig {
            dataset: DatasetOptions {
                name: given.dataset.as_deref().map(|name| canonical_name(name).to_string()),
                root: given.data_dir.clone(),
                train_split: other_than(DEFAULT_TRAIN_SPLIT, &given.train_split),
                val_split: other_than(DEFAULT_VAL_SPLIT, &given.val_split),
                class_map: given.class_map.clone(),
                input_key: given.input_key.clone(),
                target_key: given.target_key.clone(),
                val_fraction: given.val_fraction,
                train_num_samples: given.train_num_samples,
                val_num_samples: given.val_num_samples,
                channels: given.channels().or(is_timm.then_some(3)),
                clip_len: given.clip_len,
                clip_sampling: given.clip_sampling.unwrap_or_default(),
            },
            exif_orientation: given.exif_orientation.unwrap_or(false),
            gray16: given.gray16.unwrap_or_default(),
            bad_image: given.bad_image.unwrap_or(BadImagePolicy::Replace),
            max_bad: given.max_bad.unwrap_or(bad_images::MAX_BAD_FRACTION),
            workers: given.workers.unwrap_or(if is_timm { 4 } else { cpus.min(4) }),
            prefetch: given.prefetch.unwrap_or(2),
            timeout: Duration::from_secs(u64::from(given.loader_timeout.unwrap_or(120))),
            prepare_on_host: given.no_prefetcher.unwrap_or(false),
            epoch_repeats: given.epoch_repeats.filter(|repeats| *repeats > 0.0).unwrap_or(1.0),
            aug_repeats: given.aug_repeats.unwrap_or(0).max(1) as usize,
        })
    }

    /// Resolved settings. Settings that do not change results are as given.
    pub(super) fn resolved(&self, given: &Settings) -> Settings {
        Settings {
            dataset: self.dataset.name.clone(),
            data_dir: given.data_dir.clone(),
            train_split: given.train_split.clone(),
            val_split: given.val_split.clone(),
            val_fraction: given.val_fraction,
            class_map: given.class_map.clone(),
            input_key: given.input_key.clone(),
            target_key: given.target_key.clone(),
            num_classes: given.num_classes,
            train_num_samples: given.train_num_samples,
            val_num_samples: given.val_num_samples,
            epoch_repeats: Some(self.epoch_repeats),
            clip_len: given.clip_len,
            clip_sampling: given.clip_sampling,
            exif_orientation: given.exif_orientation,
            gray16: given.gray16,
            bad_image: Some(self.bad_image),
            max_bad: Some(self.max_bad),
            workers: given.workers,
            prefetch: given.prefetch,
            loader_timeout: given.loader_timeout,
            no_prefetcher: given.no_prefetcher,
            aug_repeats: given.aug_repeats,
            img_size: given.img_size,
            input_size: given.input_size.clone(),
            in_chans: given.in_chans.or(given.input_img_mode.map(ImageMode::channels)),
            mean: given.mean.clone(),
            std: given.std.clone(),
            crop_pct: given.crop_pct,
            crop_mode: given.crop_mode,
            interpolation: given.interpolation,
            ..Settings::default()
        }
    }
}

/// The name of a split, unless it is the default, which is looked up under several names.
fn other_than(default: &str, name: &Option<String>) -> Option<String> {
    name.clone().filter(|name| name != default)
}
