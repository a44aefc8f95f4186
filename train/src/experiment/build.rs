//! Parts of a run, built from its configuration: dataset, loaders, model, EMA, weights.
use crate::augment::TestTimeAugmentation;
use crate::config::{Config, DEFAULT_VAL_FRACTION, InputConfig};
use crate::data::{BadImages, DatasetChecksums, DatasetOptions, DatasetSplits};
use crate::ema::Ema;
use crate::hub::Hub;
use crate::loader::{BatchPreparation, Loader, LoaderOptions};
use crate::message::count;
use crate::weights::{self, LoadOptions, WeightsFile, WeightsSource};
use crate::{Error, Result};
use fornax_engine::{DType, Device, Tensor, no_grad};
use fornax_nn::models::{self, Model};
use fornax_nn::{Context, Module};
use std::sync::Arc;

/// Images of a run: dataset, input of the network, and number of logits.
pub struct RunData {
    /// Training and validation split.
    pub splits: DatasetSplits,
    /// Input of the network.
    pub input: InputConfig,
    /// Number of logits.
    pub num_classes: usize,
    /// Checksums that identify the dataset.
    pub checksums: DatasetChecksums,
}

/// Opens the dataset and resolves the input of the network. Without a validation split, a fraction of each class is held out.
pub fn open(config: &mut Config) -> Result<RunData> {
    let splits = open_splits(config)?;
    RunData::new(config, splits)
}

impl RunData {
    /// Resolves the input of the network and the number of logits for a dataset with a validation split.
    pub fn new(config: &mut Config, splits: DatasetSplits) -> Result<RunData> {
        let input = config.resolve_input(&splits)?;
        let num_classes = num_classes(config, &splits)?;
        let checksums = splits.checksums();
        Ok(RunData { splits, input, num_classes, checksums })
    }

    /// Text that is equal on all ranks if they have the same samples, wherever these are: counts and checksums.
    pub(super) fn fingerprint(&self) -> String {
        let RunData { splits, checksums: DatasetChecksums { samples, content }, .. } = self;
        let classes = splits
            .classes
            .iter()
            .fold(0, |sum, class| crc32c::crc32c_append(crc32c::crc32c_append(sum, class.as_bytes()), &[0]));
        let validation = splits.validation.as_ref().map_or(0, |split| split.len() as u64);
        format!(
            "{}, {}, {}; CRC32C of class names {classes:08x}, of names and labels {:08x}, of image files {:08x}",
            count(splits.train.len() as u64, "training image"),
            count(validation, "validation image"),
            count(splits.classes.len() as u64, "class"),
            samples.combined(),
            content.combined()
        )
    }
}

fn open_splits(config: &Config) -> Result<DatasetSplits> {
    let options = &config.data.dataset;
    let mut splits = options.open()?;
    splits.check_trainable()?;
    if splits.validation.is_none() {
        if options.val_split.is_some() {
            return Err(Error::usage("training without validation is not available")
                .at("--val-split")
                .because("the validation metrics select the best checkpoint")
                .remedy("omit it, or use --val-fraction"));
        }
        let options = DatasetOptions { val_fraction: Some(DEFAULT_VAL_FRACTION), ..options.clone() };
        splits = options.open()?;
        splits.notes.push(hold_out_note(&splits));
    }
    Ok(splits)
}

/// Note about the images that are held out for validation by default.
fn hold_out_note(splits: &DatasetSplits) -> String {
    let mut held_out = vec![false; splits.classes.len()];
    if let Some(validation) = &splits.validation {
        (0..validation.len()).for_each(|index| held_out[validation.target(index) as usize] = true);
    }
    let none = match held_out.iter().filter(|held_out| !**held_out).count() {
        0 => String::new(),
        omitted => format!(", none of {}; --val-fraction sets the fraction", count(omitted as u64, "class")),
    };
    format!("no validation split: {DEFAULT_VAL_FRACTION} of each class is held out{none}")
}

/// Checks that a training batch fits into the dataset.
pub fn check_batch_size(config: &Config, data: &DatasetSplits) -> Result<()> {
    let batch_size = config.global_batch_size();
    if batch_size <= data.train.len() {
        return Ok(());
    }
    let (batch, images) =
        (count(batch_size as u64, "image"), count(data.train.len() as u64, "training image"));
    Err(Error::usage(format!("a batch of {batch} is larger than the dataset"))
        .at("--batch-size")
        .because(format!("{} has {images}", data.name))
        .remedy(format!("choose at most {}", data.train.len() / config.world_size)))
}

/// Limits of an epoch. The random numbers of a sample depend on its number in the epoch, which has 40 bits.
const MAX_PASSES: f64 = 1e6;
const MAX_BATCHES: usize = 1_000_000_000;
const MAX_SAMPLES: u128 = 1 << 40;

/// Checks that an epoch ends.
fn check_epoch_length(config: &Config, data: &DatasetSplits) -> Result<()> {
    let (repeats, batches) = (config.data.epoch_repeats, config.batches_per_epoch.unwrap_or_default());
    let too_long = |flag: &str, why: String| {
        Err(Error::usage("an epoch would be too long").at(flag).because(why).remedy(format!("lower {flag}")))
    };
    if repeats > MAX_PASSES || data.train.len() as f64 * repeats > MAX_SAMPLES as f64 {
        return too_long(
            "--epoch-repeats",
            format!("{repeats} passes over the training images are given, at most {MAX_PASSES} are possible"),
        );
    }
    if batches > MAX_BATCHES || batches as u128 * config.global_batch_size() as u128 > MAX_SAMPLES {
        return too_long(
            "--train-batches-per-epoch",
            format!("{batches} are given, at most {MAX_BATCHES} are possible"),
        );
    }
    Ok(())
}

/// Number of logits: `--num-classes`, at least the number of classes of the dataset.
fn num_classes(config: &Config, data: &DatasetSplits) -> Result<usize> {
    let classes = data.classes.len();
    match config.settings.num_classes {
        Some(given) if given < classes => {
            Err(Error::usage(format!("{} are too few", count(given as u64, "class")))
                .at("--num-classes")
                .because(format!("{} has {}", data.name, count(classes as u64, "class")))
                .remedy(format!("use at least {classes}, or omit classes with --class-map")))
        }
        given => Ok(given.unwrap_or(classes)),
    }
}

/// Builds the model and checks it with a forward pass on one image.
pub fn build(config: &Config, input: &InputConfig, num_classes: usize) -> Result<Box<dyn Model>> {
    let model = config.model.create(num_classes, input)?;
    let ([h, w], c) = (input.size, input.channels);
    let pixels = Tensor::zeros([1, h, w, c], DType::F32, &Device::Cpu)?;
    no_grad(|| model.forward(&pixels, &mut Context::eval())).map_err(|e| {
        Error::usage(format!("{} does not accept images of {h}x{w}x{c}", config.model.name))
            .at("--model, --img-size")
            .because(e)
    })?;
    if config.batch_size == 1 {
        // Batch norm rejects a single value per channel. A second model, as training mode changes the running statistics.
        let trial = config.model.create(num_classes, input)?;
        no_grad(|| trial.forward(&pixels, &mut Context::train())).map_err(|e| {
            Error::usage(format!("{} cannot train on one image at a time", config.model.name))
                .at("--batch-size")
                .because(e)
                .remedy("choose at least 2")
        })?;
    }
    Ok(model)
}

/// Training loader of a rank. Its options hold the record of bad images.
pub fn training_loader(config: &Config, data: &RunData, device: Device, rank: usize) -> Result<Loader> {
    check_epoch_length(config, &data.splits)?;
    let transform = config.augment.transform(&data.input).train_transform()?;
    let dataset = data.splits.train.clone();
    let bad_images = Arc::new(BadImages::new(config.data.bad_image, config.data.max_bad, dataset.len()));
    let batch_transform = config.augment.batch_augmentation(data.num_classes);
    let options = LoaderOptions {
        batch_size: config.global_batch_size(),
        epoch_repeats: config.data.epoch_repeats,
        repeats: config.data.aug_repeats,
        fixed_batches: config.batches_per_epoch,
        batch_transform: batch_transform.map(|transform| Arc::new(transform) as _),
        bad_images: Some(bad_images),
        ..loader_options(config, data, device, rank)
    };
    Loader::new(dataset, Arc::new(transform), options)
}

/// Validation loader of a rank. Without a record of bad images, a bad image is an error.
pub fn validation_loader(
    config: &Config,
    data: &RunData,
    device: Device,
    rank: usize,
    bad_images: Option<Arc<BadImages>>,
) -> Result<Loader> {
    let dataset = data.splits.validation.clone().ok_or_else(|| {
        Error::data("the dataset has no validation split")
            .at(&data.splits.name)
            .because("the validation metrics select the best checkpoint")
            .remedy("add a validation split to the dataset")
    })?;
    let views = TestTimeAugmentation::new(data.input.eval_transform(), config.augment.tta)
        .map_err(|why| Error::usage(why).at("--tta"))?;
    let options = LoaderOptions {
        training: false,
        batch_size: config.validation_batch_size * config.world_size,
        bad_images,
        ..loader_options(config, data, device, rank)
    };
    Loader::new(dataset, Arc::new(views), options)
}

fn loader_options(config: &Config, data: &RunData, device: Device, rank: usize) -> LoaderOptions {
    LoaderOptions {
        rank,
        world: config.world_size,
        channels: data.input.channels,
        seed: config.seed,
        workers: config.data.workers,
        prefetch: config.data.prefetch,
        timeout: config.data.timeout,
        device,
        exif_orientation: config.data.exif_orientation,
        gray16: config.data.gray16,
        prepare_on_host: config.data.prepare_on_host.then(|| preparation(config, data)),
        ..LoaderOptions::default()
    }
}

/// Normalisation, mixing and erasing of batches.
pub fn preparation(config: &Config, data: &RunData) -> BatchPreparation {
    BatchPreparation {
        statistics: data.input.statistics.clone(),
        rounded: true,
        erase_mode: config.augment.erase_mode(),
        seed: config.seed,
    }
}

/// Creates the EMA of a model, if enabled.
pub fn create_ema(
    config: &Config,
    data: &RunData,
    model: &dyn Module,
    device: Device,
) -> Result<Option<Ema>> {
    let Some(options) = config.ema else { return Ok(None) };
    let ema_device = if config.ema_on_cpu { Device::Cpu } else { device };
    Ema::new(model, config.model.create(data.num_classes, &data.input)?, options, ema_device).map(Some)
}

/// Loads pretrained weights or the initial checkpoint, if given; returns their source and a report.
pub fn load_weights(config: &Config, model: &dyn Module) -> Result<Option<String>> {
    let settings = &config.settings;
    let info =
        models::find_model(&config.model.name).map_err(|e| Error::usage(e.to_string()).at("--model"))?;
    let pretrained = LoadOptions {
        reset_classifier: settings.reset_classifier == Some(true),
        model: info.name,
        ..LoadOptions::pretrained(info.pretrained_cfg.classifier, info.pretrained_cfg.first_conv)
    };
    let (source, options) =
        match (&settings.initial_checkpoint, &settings.pretrained_path, settings.pretrained) {
            (Some(path), ..) => {
                (WeightsSource::Path(path.clone()), LoadOptions { adapt: false, ..pretrained })
            }
            (None, Some(text), _) => {
                (text.parse().map_err(|why: String| Error::usage(why).at("--pretrained-path"))?, pretrained)
            }
            (None, None, Some(true)) => (WeightsSource::published(info)?, pretrained),
            (None, None, _) => return Ok(None),
        };
    let path = source.resolve(&Hub::from_environment())?;
    let file = WeightsFile::open(&path)?;
    // As timm, which prefers the EMA weights of its checkpoints.
    let ema = file.prefers_ema()?;
    let mut report = weights::load_file(model, &file, &LoadOptions { ema, ..options })?;
    if ema {
        report.notes.push("the EMA weights of the checkpoint are used, as in timm".into());
    }
    report.notes.extend(of_weights_note(config));
    Ok(Some(format!("{source}: {report}")))
}

/// Note about the settings that a run takes from the file of its initial weights.
fn of_weights_note(config: &Config) -> Option<String> {
    let (now, of_weights) = (config.settings.given(), config.of_weights.given());
    let inputs = ["input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation", "exif_orientation"];
    let differs = |name: &&str| of_weights.get(*name).is_some_and(|value| now.get(*name) != Some(value));
    let other: Vec<&str> = inputs.into_iter().filter(differs).collect();
    match (of_weights.contains_key("mean"), &other[..]) {
        (false, _) => None,
        (true, []) => Some("input size, normalisation and crop are those of the file".into()),
        (true, other) => Some(format!("the file was trained with another {}", other.join(", "))),
    }
}
