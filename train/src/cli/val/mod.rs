//! `fornax val`: loss and accuracy of trained or published models on a dataset.
mod dataset;
mod metrics;
mod output;
mod results;
mod timm;
mod valid_labels;

use crate::checkpoint;
use crate::cli::compute::ComputeArgs;
use crate::cli::signals::Signals;
use crate::cli::{output_file, print};
use crate::config::{Config, InputConfig, timm_name, unknown_model};
use crate::error::ErrorKind;
use crate::experiment::{RunData, build};
use crate::hub::Hub;
use crate::message::count as counted;
use crate::settings::{AUTO_BATCH_SIZE, Settings};
use crate::trainer::{Evaluation, Evaluator, RunSignals};
use crate::weights::{LoadOptions, WeightsFile, WeightsIdentity, WeightsSource, load_file};
use crate::{Error, Result};
use fornax_nn::models::{PretrainedCfg, find_model};
use fornax_nn::{Module, move_to, named_parameters};
use metrics::{ClassMetrics, MetricsAverage};
use results::ResultsFormat;
use std::path::PathBuf;
use std::time::Instant;
use valid_labels::ValidLabels;

/// Arguments of `fornax val`, with the settings of `fornax train` that an evaluation depends on.
#[derive(clap::Args)]
#[command(args_override_self = true, disable_help_flag = true, mut_args(hide_unrelated), after_help = NOTES)]
pub struct ValArgs {
    /// Dataset root, as for `fornax train` [default: the dataset of the checkpoint's run]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,

    /// Checkpoints: run folders (for `best`), safetensors or PyTorch files, or hf-hub:ORGANISATION/NAME; each is evaluated
    #[arg(long, visible_alias = "weights", value_name = "SOURCE", num_args = 1.., help_heading = "Model")]
    checkpoint: Vec<WeightsSource>,
    /// Evaluate the EMA weights of a checkpoint
    #[arg(long, help_heading = "Model")]
    use_ema: bool,
    /// Evaluate weights without a run at the size and crop of training instead of timm's test size and crop
    #[arg(long, help_heading = "Model")]
    use_train_size: bool,
    /// File of class indices, one per line: only these logits are compared, in this order, such as for ImageNet-A
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    valid_labels: Option<PathBuf>,
    /// Split to evaluate: name of a subfolder, archive or file [default: validation]
    #[arg(long, value_name = "NAME", help_heading = "Dataset", conflicts_with = "val_split")]
    split: Option<String>,
    /// Evaluate the first N images of a keyed shuffle [default: all]
    #[arg(long, value_name = "N", help_heading = "Dataset", conflicts_with = "val_num_samples")]
    num_samples: Option<usize>,

    #[command(flatten)]
    timm: timm::ValidateArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Print help
    #[arg(long, short, action = clap::ArgAction::HelpShort, help_heading = "Run")]
    help: Option<bool>,

    /// Print the accuracy of each class
    #[arg(long, help_heading = "Output")]
    per_class: bool,
    /// Write the confusion matrix as CSV: a row per true class, a column per predicted class; one checkpoint only
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    confusion_matrix: Option<PathBuf>,
    /// Write a row per checkpoint, with timm's columns; the file is complete after every checkpoint
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    results_file: Option<PathBuf>,
    /// Format of --results-file
    #[arg(long, value_name = "FORMAT", default_value = "csv", help_heading = "Output")]
    results_format: ResultsFormat,
    /// Also compute precision, recall and F1 score, averaged over the classes
    #[arg(long, value_name = "AVERAGE", help_heading = "Output")]
    metrics_avg: Option<MetricsAverage>,
    /// Print one JSON object per checkpoint
    #[arg(long, help_heading = "Output")]
    json: bool,
}

const NOTES: &str = "\
A checkpoint of `fornax train` provides the settings of its run: model, dataset, input size, normalisation, precision. The command line wins.
Without --checkpoint, --model NAME --pretrained evaluates the published weights of a model.";

/// Settings that an evaluation depends on.
const EVALUATION_SETTINGS: [&str; 39] = [
    "dataset",
    "data_dir",
    "val_split",
    "val_fraction",
    "class_map",
    "input_key",
    "target_key",
    "num_classes",
    "val_num_samples",
    "clip_len",
    "clip_sampling",
    "exif_orientation",
    "gray16",
    "workers",
    "prefetch",
    "loader_timeout",
    "no_prefetcher",
    "batch_size",
    "validation_batch_size",
    "model",
    "pretrained",
    "img_size",
    "input_size",
    "in_chans",
    "mean",
    "std",
    "crop_pct",
    "crop_mode",
    "interpolation",
    "model_kwargs",
    "bn_eps",
    "bn_tf",
    "gp",
    "amp",
    "amp_dtype",
    "opt_level",
    "model_dtype",
    "input_img_mode",
    "tta",
];

/// Settings that `--split`, `--num-samples` and `--batch-size` replace.
const REPLACED_SETTINGS: [&str; 3] = ["val_split", "val_num_samples", "validation_batch_size"];

/// Arguments that are no settings.
const OWN_ARGUMENTS: [&str; 16] = [
    "dir",
    "checkpoint",
    "use_ema",
    "use_train_size",
    "valid_labels",
    "split",
    "num_samples",
    "device",
    "threads",
    "help",
    "per_class",
    "confusion_matrix",
    "results_file",
    "results_format",
    "metrics_avg",
    "json",
];

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

fn hide_unrelated(arg: clap::Arg) -> clap::Arg {
    let id = arg.get_id().as_str();
    let shown =
        OWN_ARGUMENTS.contains(&id) || EVALUATION_SETTINGS.contains(&id) && !REPLACED_SETTINGS.contains(&id);
    match id {
        "model" => arg.short('m'),
        "batch_size" => arg.help("Batch size, in images [default: 256]"),
        _ => arg.hide(!shown),
    }
}

/// Evaluation of one checkpoint.
struct Validation {
    /// The checkpoint, as given.
    source: String,
    model: String,
    /// The EMA weights were evaluated.
    ema: bool,
    dataset: String,
    classes: Vec<String>,
    parameters: usize,
    input: InputConfig,
    evaluation: Evaluation,
    /// Averages over the classes, if requested.
    metrics: Option<ClassMetrics>,
    seconds: f64,
}

/// Evaluates every checkpoint and prints the results.
pub fn execute(args: &ValArgs) -> Result<()> {
    args.timm.check()?;
    let given = given_settings(args)?;
    let sources = sources(args, &given)?;
    if args.confusion_matrix.is_some() && sources.len() > 1 {
        return Err(Error::usage("--confusion-matrix takes one checkpoint")
            .because(format!("{} are given", sources.len()))
            .remedy("evaluate them one by one"));
    }
    args.compute.set_threads()?;
    let valid_labels = args.valid_labels.as_deref().map(valid_labels::read).transpose()?;
    let signals = Signals::listen(|_| ())?;
    // Before the first evaluation, which may take hours.
    let mut failed = vec![];
    let mut usable = vec![];
    for source in &sources {
        match check_file(source, &given) {
            Ok(()) => usable.push(source),
            Err(error) => report_failure(error, sources.len(), &mut failed)?,
        }
    }
    let mut all = vec![];
    for source in usable {
        let validation = match validate(args, &given, source, valid_labels.as_deref(), &signals) {
            Ok(validation) => validation,
            Err(error) => {
                report_failure(error, sources.len(), &mut failed)?;
                continue;
            }
        };
        print(&output::result(&validation, args.json, args.per_class))?;
        all.push(validation);
        if let Some(path) = args.results_file.as_deref().filter(|path| results::is_replaced(path)) {
            output_file::write(path, results::text(&all, args.results_format).as_bytes())?;
        }
    }
    if let (Some(path), [only]) = (&args.confusion_matrix, &all[..]) {
        output_file::write(path, output::confusion_csv(only).as_bytes())?;
    }
    if let Some(path) = args.results_file.as_deref().filter(|path| !results::is_replaced(path)) {
        output_file::write(path, results::text(&all, args.results_format).as_bytes())?;
    }
    if all.len() > 1 && !args.json {
        print(&output::comparison(&all))?;
    }
    let (count, total) = (failed.len(), sources.len());
    match failed.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(Error::checkpoint(format!("{count} of {total} checkpoints were not evaluated"))
            .because(format!("the first: {}", first.why().unwrap_or(first.what())))
            .remedy("repair or omit the checkpoints reported above")),
    }
}

/// Keeps the error of one checkpoint among several, and prints it. Returns it if it ends the command: it concerns an only checkpoint, or the
/// others too, such as the dataset.
fn report_failure(error: Error, total: usize, failed: &mut Vec<Error>) -> Result<()> {
    if total == 1 || error.kind() != ErrorKind::Checkpoint {
        return Err(error);
    }
    message!("error: {error}");
    failed.push(error);
    Ok(())
}

/// Checks that a weights file exists, can be parsed and names its model.
fn check_file(source: &WeightsSource, given: &Settings) -> Result<()> {
    let file = WeightsFile::open(&source.resolve(&Hub::from_environment())?)?;
    file.parse()?;
    let identity = file.identity()?.unwrap_or_default();
    model_name(&merged_settings(given, &identity), &file).map(drop)
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

/// The settings of the command line. Errors on one that an evaluation does not depend on.
fn given_settings(args: &ValArgs) -> Result<Settings> {
    let mut given = args.settings.clone();
    if given.seed.take().is_some() {
        message!("warning: no effect: --seed (an evaluation takes no random numbers)");
    }
    if let Some(setting) = given.given().keys().find(|key| !EVALUATION_SETTINGS.contains(&key.as_str())) {
        return Err(Error::usage(format!("--{} would have no effect", setting.replace('_', "-")))
            .because("an evaluation does not depend on it")
            .remedy("omit it"));
    }
    if given.batch_size == Some(AUTO_BATCH_SIZE) {
        return Err(Error::usage("--batch-size auto is an option of `fornax train`")
            .because("it measures the memory of a training step")
            .remedy("use a number"));
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
    Ok(given)
}

/// The checkpoints to evaluate: those given, or the published weights of `--model`.
fn sources(args: &ValArgs, given: &Settings) -> Result<Vec<WeightsSource>> {
    let find = |name: &str| find_model(timm_name(name)).map_err(|_| unknown_model(name).at("--model"));
    match (&args.checkpoint[..], &given.model, given.pretrained) {
        ([], Some(model), Some(true)) => Ok(vec![WeightsSource::published(find(model)?)?]),
        ([], ..) => Err(Error::usage("there is nothing to evaluate")
            .because("neither --checkpoint nor --pretrained with --model is given")
            .remedy("pass a run folder or a weights file with --checkpoint")),
        (_, _, Some(true)) => Err(Error::usage("--pretrained would have no effect")
            .because("--checkpoint is given")
            .remedy("use one of the two")),
        (sources, ..) => Ok(sources.to_vec()),
    }
}

fn validate(
    args: &ValArgs,
    given: &Settings,
    source: &WeightsSource,
    valid_labels: Option<&[usize]>,
    signals: &Signals,
) -> Result<Validation> {
    let file = WeightsFile::open(&source.resolve(&Hub::from_environment())?)?;
    let is_of_run = file.checkpoint_header()?.is_some();
    let identity = file.identity()?.unwrap_or_default();
    let settings = merged_settings(given, &identity);
    let name = model_name(&settings, &file)?;
    if is_of_run && !has_dataset(given) {
        let missing = checkpoint::missing_dataset(&settings, file.path(), "fornax val DIR --checkpoint …");
        missing.map_or(Ok(()), Err)?;
    }
    let mut config = Config::resolve(&settings)?;
    if identity.settings.mean.is_none() {
        let cfg = config.model.pretrained_cfg()?;
        if !source.is_published() && given.mean.is_none() && given.std.is_none() {
            message!("note: {source} does not say its normalisation; the mean and std of {name} are used");
        }
        config.of_weights = default_input(cfg, args.use_train_size);
    }
    let classes = Some(identity.classes.as_slice()).filter(|classes| !classes.is_empty());
    let mut data = match is_of_run && !has_dataset(given) {
        true => build::open(&mut config)?,
        false => {
            let splits = dataset::open(&config.data.dataset, classes)?;
            RunData::new(&mut config, splits)?
        }
    };
    let of_dataset = data.splits.classes.len();
    data.num_classes = num_classes(&config, &file, &identity, args.use_ema, of_dataset)?;
    if data.num_classes != of_dataset && given.num_classes.is_none() && valid_labels.is_none() {
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
    let device = args.compute.device.open()?;
    move_to(&*model, &device)?;
    let parameters = named_parameters(&*model).iter().map(|(_, tensor)| tensor.numel()).sum();
    let loader = build::validation_loader(&config, &data, device, 0, None)?;
    let preparation = build::preparation(&config, &data);
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
        preparation: Some(&preparation),
        group: None,
    };
    let check_interrupt = || match signals.interrupt() {
        None => Ok(()),
        Some(signal) => Err(Error::new(ErrorKind::Interrupted(signal), "the evaluation was interrupted")),
    };
    let started = Instant::now();
    let evaluation = evaluator.evaluate(evaluated, &check_interrupt)?;
    Ok(Validation {
        source: source.to_string(),
        model: name,
        ema: args.use_ema,
        dataset: data.splits.name.clone(),
        classes: data.splits.classes.clone(),
        parameters,
        input: data.input,
        metrics: args.metrics_avg.map(|average| ClassMetrics::of(&evaluation, average)),
        evaluation,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// True if a dataset is given.
fn has_dataset(given: &Settings) -> bool {
    given.dataset.is_some() || given.data_dir.is_some()
}

/// The input of validate.py for weights that do not say theirs: timm's test size and test crop, or those of training.
fn default_input(cfg: &PretrainedCfg, use_train_size: bool) -> Settings {
    if use_train_size {
        return Settings::default();
    }
    let size = cfg.test_input_size.map(|[h, w]| vec![3, h, w]);
    Settings { input_size: size, crop_pct: cfg.test_crop_pct, ..Settings::default() }
}

/// The given settings, completed by those of the weights: of their run, or of their model and input.
fn merged_settings(given: &Settings, identity: &WeightsIdentity) -> Settings {
    let of_weights = identity.settings.filtered(|key| {
        let is_replaced = has_dataset(given) && DATASET_SETTINGS.contains(&key);
        let is_default = key == "exif_orientation" && identity.settings.exif_orientation == Some(false);
        !(is_replaced || is_default)
    });
    given.clone().over(of_weights)
}

/// Number of logits: `--num-classes`, else that of the run, else the rows of the classifier's weight.
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
