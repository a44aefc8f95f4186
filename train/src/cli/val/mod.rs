//! `fornax val`: loss and accuracy of trained or published models on a dataset.
mod dataset;
mod output;

use crate::checkpoint::CheckpointHeader;
use crate::cli::compute::ComputeArgs;
use crate::cli::signals::Signals;
use crate::cli::{output_file, print};
use crate::config::{Config, InputConfig, timm_name, unknown_model};
use crate::error::ErrorKind;
use crate::experiment::{RunData, build};
use crate::hub::Hub;
use crate::settings::{AUTO_BATCH_SIZE, Settings};
use crate::trainer::{Evaluation, Evaluator, RunSignals};
use crate::weights::{LoadOptions, WeightsFile, WeightsSource, load_file};
use crate::{Error, Result};
use fornax_nn::models::find_model;
use fornax_nn::{move_to, named_parameters};
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `fornax val`, with the settings of `fornax train` that an evaluation depends on.
#[derive(clap::Args)]
#[command(args_override_self = true, disable_help_flag = true, mut_args(hide_unrelated), after_help = NOTES)]
pub struct ValArgs {
    /// Dataset root, as for `fornax train` [default: the dataset of the checkpoint's run]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,

    /// Checkpoints: run folders (for `best`), safetensors files, or hf-hub:ORGANISATION/NAME; each is evaluated
    #[arg(long, visible_alias = "weights", value_name = "SOURCE", num_args = 1.., help_heading = "Model")]
    checkpoint: Vec<WeightsSource>,
    /// Evaluate the EMA weights of a checkpoint
    #[arg(long, help_heading = "Model")]
    use_ema: bool,
    /// Split to evaluate: name of a subfolder, archive or file [default: validation]
    #[arg(long, value_name = "NAME", help_heading = "Dataset", conflicts_with = "val_split")]
    split: Option<String>,
    /// Evaluate the first N images of a keyed shuffle [default: all]
    #[arg(long, value_name = "N", help_heading = "Dataset", conflicts_with = "val_num_samples")]
    num_samples: Option<usize>,

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
    /// Write a row per checkpoint, with timm's columns
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    results_file: Option<PathBuf>,
    /// Print one JSON object per checkpoint
    #[arg(long, help_heading = "Output")]
    json: bool,
}

const NOTES: &str = "\
A checkpoint of `fornax train` provides the settings of its run: model, dataset, input size, normalisation, precision. The command line wins.
Without --checkpoint, --model NAME --pretrained evaluates the published weights of a model.";

/// Settings that an evaluation depends on.
const EVALUATION_SETTINGS: [&str; 36] = [
    "dataset",
    "data_dir",
    "val_split",
    "val_fraction",
    "class_map",
    "num_classes",
    "val_num_samples",
    "clip_len",
    "clip_sampling",
    "exif_orientation",
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
const OWN_ARGUMENTS: [&str; 12] = [
    "dir",
    "checkpoint",
    "use_ema",
    "split",
    "num_samples",
    "device",
    "threads",
    "help",
    "per_class",
    "confusion_matrix",
    "results_file",
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
    seconds: f64,
}

/// Evaluates every checkpoint and prints the results.
pub fn execute(args: &ValArgs) -> Result<()> {
    let given = given_settings(args)?;
    let sources = sources(args, &given)?;
    if args.confusion_matrix.is_some() && sources.len() > 1 {
        return Err(Error::usage("--confusion-matrix takes one checkpoint")
            .because(format!("{} are given", sources.len()))
            .remedy("evaluate them one by one"));
    }
    args.compute.set_threads()?;
    let signals = Signals::listen()?;
    let mut all = vec![];
    for source in &sources {
        let validation = validate(args, &given, source, &signals)?;
        print(&output::result(&validation, args.json, args.per_class))?;
        all.push(validation);
    }
    if let (Some(path), [only]) = (&args.confusion_matrix, &all[..]) {
        output_file::write(path, output::confusion_csv(only).as_bytes())?;
    }
    if let Some(path) = &args.results_file {
        output_file::write(path, output::results_csv(&all).as_bytes())?;
    }
    match all.len() {
        1 => Ok(()),
        _ if args.json => Ok(()),
        _ => print(&output::comparison(&all)),
    }
}

/// The settings of the command line. Errors on one that an evaluation does not depend on.
fn given_settings(args: &ValArgs) -> Result<Settings> {
    let mut given = args.settings.clone();
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
    signals: &Signals,
) -> Result<Validation> {
    let file = WeightsFile::open(&source.resolve(&Hub::from_environment())?)?;
    let header = file.checkpoint_header()?;
    let settings = merged_settings(given, header.as_ref());
    let Some(name) = settings.model.clone() else {
        return Err(Error::usage("--model is needed")
            .at_path(file.path())
            .because("the weights file does not name its model")
            .remedy("pass the model's name with --model; `fornax models` lists them"));
    };
    let mut config = Config::resolve(&settings)?;
    let classes = header.as_ref().map(|header| header.classes.as_slice());
    let mut data = match header.is_some() && !has_dataset(given) {
        true => build::open(&mut config)?,
        false => {
            let splits = dataset::open(&config.data.dataset, classes)?;
            RunData::new(&mut config, splits)?
        }
    };
    let of_dataset = data.splits.classes.len();
    data.num_classes = num_classes(&config, &file, header.as_ref(), args.use_ema, of_dataset)?;
    let model = config.model.create(data.num_classes, &data.input)?;
    let load = LoadOptions {
        ema: args.use_ema,
        img_size: Some(data.input.size),
        ..LoadOptions::pretrained("", config.model.pretrained_cfg()?.first_conv)
    };
    let report = load_file(&*model, &file, &load)?;
    report.notes.iter().for_each(|note| message!("{note}"));
    if !args.use_ema && header.is_some() && file.weights(true).is_ok() {
        message!("note: {source} also has EMA weights; --use-ema evaluates them");
    }
    let device = args.compute.device.open()?;
    move_to(&*model, &device)?;
    let parameters = named_parameters(&*model).iter().map(|(_, tensor)| tensor.numel()).sum();
    let loader = build::validation_loader(&config, &data, device, 0)?;
    let preparation = build::preparation(&config, &data);
    let evaluator = Evaluator {
        loader: &loader,
        num_classes: data.num_classes,
        precision: config.precision,
        preparation: Some(&preparation),
        group: None,
    };
    let check_interrupt = || match signals.interrupt() {
        None => Ok(()),
        Some(signal) => Err(Error::new(ErrorKind::Interrupted(signal), "the evaluation was interrupted")),
    };
    let started = Instant::now();
    let evaluation = evaluator.evaluate(&*model, &check_interrupt)?;
    Ok(Validation {
        source: source.to_string(),
        model: name,
        ema: args.use_ema,
        dataset: data.splits.name.clone(),
        classes: data.splits.classes.clone(),
        parameters,
        input: data.input,
        evaluation,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// True if a dataset is given.
fn has_dataset(given: &Settings) -> bool {
    given.dataset.is_some() || given.data_dir.is_some()
}

/// The given settings, completed by those of the checkpoint's run.
fn merged_settings(given: &Settings, header: Option<&CheckpointHeader>) -> Settings {
    let of_run = header.map_or_else(Settings::default, |header| header.settings.clone());
    let of_run = match has_dataset(given) {
        true => of_run.filtered(|key| !DATASET_SETTINGS.contains(&key)),
        false => of_run,
    };
    given.clone().over(of_run)
}

/// Number of logits: `--num-classes`, else that of the checkpoint's run, else the rows of the classifier's weight.
fn num_classes(
    config: &Config,
    file: &WeightsFile,
    header: Option<&CheckpointHeader>,
    ema: bool,
    of_dataset: usize,
) -> Result<usize> {
    let weights = file.weights(ema)?;
    let classifier = format!("{}.weight", config.model.pretrained_cfg()?.classifier);
    let rows = weights.get(&classifier).and_then(|stored| stored.shape.first().copied());
    let given = config.settings.num_classes.or(header.map(|header| header.classes.len()));
    let count = given.or(rows).unwrap_or(of_dataset);
    match count < of_dataset {
        true => Err(Error::usage(format!("{count} classes are too few"))
            .at_path(file.path())
            .because(format!("the dataset has {of_dataset} classes"))
            .remedy("pass the dataset that the model was trained for, or omit classes with --class-map")),
        false => Ok(count),
    }
}
