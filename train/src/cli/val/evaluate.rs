//! Evaluation of one checkpoint.
use super::args::ValArgs;
use super::bad_images;
use super::dataset;
use super::metrics::ClassAverages;
use super::real_labels::{self, RealAccuracy, RealLabels};
use super::settings::{self, has_dataset};
use super::valid_labels::{self, ValidLabels};
use crate::cli::compute::ignored_conv_algo;
use crate::cli::signals::Signals;
use crate::config::{Config, IgnoredOption, InputConfig, ignored_warning};
use crate::data::header_check::has_image_files;
use crate::error::ErrorKind;
use crate::experiment::{RunData, build};
use crate::hub::Hub;
use crate::message::count as counted;
use crate::settings::Settings;
use crate::trainer::{Evaluation, Evaluator, RunSignals};
use crate::weights::{LoadOptions, WeightsFile, WeightsIdentity, WeightsSource, load_file};
use crate::{Error, Result, checkpoint};
use fornax_engine::Device;
use fornax_nn::{Module, move_to, named_parameters};
use std::time::Instant;

/// Evaluation of one checkpoint.
pub struct Validation {
    /// The checkpoint, as given.
    pub source: String,
    pub model: String,
    /// The EMA weights were evaluated.
    pub ema: bool,
    pub dataset: String,
    pub classes: Vec<String>,
    pub parameters: usize,
    pub input: InputConfig,
    /// Loss and accuracy; `real` replaces the accuracy if it is requested.
    pub evaluation: Evaluation,
    /// Accuracy with ReaL labels, if requested.
    pub real: Option<RealAccuracy>,
    /// Averages over the classes, if requested.
    pub averages: Option<ClassAverages>,
    pub seconds: f64,
}

/// Evaluates checkpoints with the same options.
pub struct Validator<'a> {
    args: &'a ValArgs,
    given: Settings,
    /// Options without effect on any checkpoint.
    ignored: Vec<IgnoredOption>,
    valid_labels: Option<Vec<usize>>,
    real_labels: Option<RealLabels>,
    signals: &'a Signals,
    /// The last warning about options without effect.
    warning: Option<String>,
}

impl<'a> Validator<'a> {
    /// Reads the label files of the options.
    pub fn new(
        args: &'a ValArgs,
        given: Settings,
        ignored: Vec<IgnoredOption>,
        signals: &'a Signals,
    ) -> Result<Validator<'a>> {
        let valid_labels = args.valid_labels.as_deref().map(valid_labels::read).transpose()?;
        let real_labels = args.real_labels.as_deref().map(RealLabels::read).transpose()?;
        Ok(Validator { args, given, ignored, valid_labels, real_labels, signals, warning: None })
    }

    /// Checks that a weights file exists, can be parsed and names its model.
    pub fn check_file(&self, source: &WeightsSource) -> Result<()> {
        let file = WeightsFile::open(&source.resolve(&Hub::from_environment())?)?;
        file.parse()?;
        let identity = file.identity()?.unwrap_or_default();
        model_name(&settings::merged(&self.given, &identity), &file).map(drop)
    }

    /// Evaluates a checkpoint.
    pub fn evaluate(&mut self, source: &WeightsSource) -> Result<Validation> {
        let args = self.args;
        let file = WeightsFile::open(&source.resolve(&Hub::from_environment())?)?;
        let is_of_run = file.checkpoint_header()?.is_some();
        let identity = file.identity()?.unwrap_or_default();
        let merged = settings::merged(&self.given, &identity);
        let name = model_name(&merged, &file)?;
        let is_own_dataset = is_of_run && !has_dataset(&self.given);
        if is_own_dataset {
            let missing = checkpoint::missing_dataset(&merged, file.path(), "fornax val DIR --checkpoint …");
            missing.map_or(Ok(()), Err)?;
        }
        let mut config = Config::resolve(&merged)?;
        if identity.settings.mean.is_none() {
            let cfg = config.model.pretrained_cfg()?;
            if !source.is_published() && self.given.mean.is_none() && self.given.std.is_none() {
                message!(
                    "note: {source} does not say its normalisation; the mean and std of {name} are used"
                );
            }
            config.of_weights = settings::default_input(cfg, args.use_train_size);
        }
        let mut data = match is_own_dataset {
            true => build::open(&mut config)?,
            false => {
                let classes = Some(identity.classes.as_slice()).filter(|classes| !classes.is_empty());
                let splits = dataset::open(&config.data.dataset, classes)?;
                RunData::new(&mut config, splits)?
            }
        };
        let device = args.compute.device.open()?;
        self.warn_about_ignored(&config, &data, &identity, &device);
        let of_dataset = data.splits.classes.len();
        data.num_classes = num_classes(&config, &file, &identity, args.use_ema, of_dataset)?;
        if data.num_classes != of_dataset && self.given.num_classes.is_none() && self.valid_labels.is_none() {
            message!(
                "note: {source} has {} classes, {} has {of_dataset}; its classes are taken for the model's first {of_dataset}",
                data.num_classes,
                data.splits.name
            );
        }
        let model = config.model.create(data.num_classes, &data.input)?;
        let load = LoadOptions {
            ema: args.use_ema,
            img_size: Some(data.input.size),
            model: &name,
            ..LoadOptions::pretrained("", config.model.pretrained_cfg()?.first_conv)
        };
        let report = load_file(&*model, &file, &load)?;
        report.notes.iter().for_each(|note| message!("{note}"));
        if !args.use_ema && file.has_ema()? {
            message!("note: {source} also has EMA weights; --use-ema evaluates them");
        }
        move_to(&*model, &device)?;
        let parameters = named_parameters(&*model).iter().map(|(_, tensor)| tensor.numel()).sum();
        let check_interrupt = || match self.signals.interrupt() {
            None => Ok(()),
            Some(signal) => Err(Error::new(ErrorKind::Interrupted(signal), "the evaluation was interrupted")),
        };
        let bad_images = bad_images::record(&config, &data, &check_interrupt)?;
        let loader = build::validation_loader(&config, &data, device, 0, Some(bad_images.clone()))?;
        let labels = self.real_labels.as_ref().map(|real| real.of_dataset(loader.dataset())).transpose()?;
        let preparation = build::preparation(&config, &data);
        let valid_labels = self.valid_labels.as_deref();
        let selected =
            valid_labels.map(|labels| ValidLabels::new(&*model, labels, data.num_classes)).transpose()?;
        let (evaluated, num_classes): (&dyn Module, usize) = match &selected {
            Some(selected) => (selected, selected.len()),
            None => (&*model, data.num_classes),
        };
        if num_classes < of_dataset {
            return Err(Error::usage(format!("{num_classes} labels are too few"))
                .at("--valid-labels")
                .because(format!("{} has {of_dataset} classes", data.splits.name))
                .remedy("list an index of the model for each class of the dataset"));
        }
        let evaluator = Evaluator {
            loader: &loader,
            num_classes,
            precision: config.precision,
            conv_algorithm: config.conv_algorithm,
            preparation: Some(&preparation),
            keeps_top5: labels.is_some(),
            group: None,
        };
        let started = Instant::now();
        let mut evaluation = evaluator
            .evaluate(evaluated, &check_interrupt)
            .map_err(|error| bad_images::with_list(error, &bad_images))?;
        let seconds = started.elapsed().as_secs_f64();
        bad_images::warn(&bad_images);
        let averages = args.metrics_avg.map(|average| ClassAverages::of(&evaluation, average));
        let class = |logit: u32| valid_labels.map_or(logit, |labels| labels[logit as usize] as u32);
        let real = labels.map(|labels| real_labels::accuracy(&labels, &evaluation, class)).transpose()?;
        if let Some(RealAccuracy { top1, top5, .. }) = real {
            (evaluation.top1, evaluation.top5) = (top1, top5);
        }
        Ok(Validation {
            source: source.to_string(),
            model: name,
            ema: args.use_ema,
            dataset: data.splits.name.clone(),
            classes: data.splits.classes.clone(),
            parameters,
            input: data.input,
            evaluation,
            real,
            averages,
            seconds,
        })
    }

    /// Warns about the options without effect on this checkpoint, in one line, unless the last warning says the same.
    fn warn_about_ignored(
        &mut self,
        config: &Config,
        data: &RunData,
        identity: &WeightsIdentity,
        device: &Device,
    ) {
        let mut ignored = self.ignored.clone();
        let given = self.given.given();
        ignored.extend(config.ignored.iter().filter(|option| given.contains_key(&option.name)).cloned());
        ignored.extend(ignored_conv_algo(self.given.conv_algo, device));
        let has_files = data.splits.validation.as_deref().is_some_and(has_image_files);
        for name in ["bad_image", "max_bad"] {
            if given.contains_key(name) && !has_files {
                ignored.push(IgnoredOption::new(name, "the dataset has no image files"));
            }
        }
        if self.args.use_train_size && identity.settings.mean.is_some() {
            ignored.push(IgnoredOption::new("use_train_size", "the weights say their input"));
        }
        let warning = ignored_warning(&ignored);
        if self.warning != warning {
            warning.iter().for_each(|warning| message!("{warning}"));
            self.warning = warning;
        }
    }
}

/// The model of the settings.
fn model_name(settings: &Settings, file: &WeightsFile) -> Result<String> {
    settings.model.clone().ok_or_else(|| {
        Error::usage("--model is needed")
            .at_path(file.path())
            .because("the weights file does not name its model")
            .remedy("pass the model's name with --model; `fornax models` lists them")
    })
}

/// Number of logits: `--num-classes`, else the run's, else the rows of the classifier's weight.
fn num_classes(
    config: &Config,
    file: &WeightsFile,
    identity: &WeightsIdentity,
    ema: bool,
    of_dataset: usize,
) -> Result<usize> {
    let weights = file.weights(ema)?;
    let classifier = format!("{}.weight", config.model.pretrained_cfg()?.classifier);
    let rows = weights.get(&classifier).and_then(|stored| stored.shape.first().copied());
    let named = Some(identity.classes.len()).filter(|count| *count > 0);
    let count = config.settings.num_classes.or(named).or(rows).unwrap_or(of_dataset);
    match count < of_dataset {
        true => Err(Error::usage(format!("{} are too few", counted(count as u64, "class")))
            .at_path(file.path())
            .because(format!("the dataset has {}", counted(of_dataset as u64, "class")))
            .remedy("pass the dataset that the model was trained for, or omit classes with --class-map")),
        false => Ok(count),
    }
}
