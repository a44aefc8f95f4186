//! Arguments of `fornax val`.
use super::metrics::MetricsAverage;
use super::results::ResultsFormat;
use super::timm::ValidateArgs;
use crate::cli::compute::ComputeArgs;
use crate::settings::Settings;
use crate::weights::WeightsSource;
use std::path::PathBuf;

/// Arguments of `fornax val`, with the settings of `fornax train` that an evaluation depends on.
#[derive(clap::Args)]
#[command(args_override_self = true, disable_help_flag = true, mut_args(hide_unrelated), after_help = NOTES)]
pub struct ValArgs {
    /// Dataset root, as for `fornax train` [default: the dataset of the checkpoint's run]
    #[arg(value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(super) settings: Settings,

    /// Checkpoints: run folders (for `best`), safetensors or PyTorch files, or hf-hub:ORGANISATION/NAME; each is evaluated
    #[arg(long, visible_alias = "weights", value_name = "SOURCE", num_args = 1.., help_heading = "Model")]
    pub(super) checkpoint: Vec<WeightsSource>,
    /// Evaluate the EMA weights of a checkpoint
    #[arg(long, help_heading = "Model")]
    pub(super) use_ema: bool,
    /// Evaluate weights without a run at the size and crop of training instead of timm's test size and crop
    #[arg(long, help_heading = "Model")]
    pub(super) use_train_size: bool,
    /// File of class indices, one per line: only these logits are compared, in this order, such as for ImageNet-A
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub(super) valid_labels: Option<PathBuf>,
    /// ReaL labels of ImageNet for top-1 and top-5: JSON list with the valid classes of each image, found by its number in ILSVRC2012_val_NNNNNNNN
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub(super) real_labels: Option<PathBuf>,
    /// Split to evaluate: name of a subfolder, archive or file [default: validation]
    #[arg(long, value_name = "NAME", help_heading = "Dataset", conflicts_with = "val_split")]
    pub(super) split: Option<String>,
    /// Evaluate the first N images of a keyed shuffle [default: all]
    #[arg(long, value_name = "N", help_heading = "Dataset", conflicts_with = "val_num_samples")]
    pub(super) num_samples: Option<usize>,

    #[command(flatten)]
    pub(super) timm: ValidateArgs,
    #[command(flatten)]
    pub(super) compute: ComputeArgs,
    /// Print help
    #[arg(long, short, action = clap::ArgAction::HelpShort, help_heading = "Run")]
    pub(super) help: Option<bool>,

    /// Print the accuracy of each class
    #[arg(long, help_heading = "Output")]
    pub(super) per_class: bool,
    /// Write the confusion matrix as CSV: a row per true class, a column per predicted class; one checkpoint only
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(super) confusion_matrix: Option<PathBuf>,
    /// Write a row per checkpoint, with timm's columns; the file is complete after every checkpoint
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(super) results_file: Option<PathBuf>,
    /// Format of --results-file
    #[arg(long, value_name = "FORMAT", default_value = "csv", help_heading = "Output")]
    pub(super) results_format: ResultsFormat,
    /// Also compute precision, recall and F1 score, averaged over the classes
    #[arg(long, value_name = "AVERAGE", help_heading = "Output")]
    pub(super) metrics_avg: Option<MetricsAverage>,
    /// Print one JSON object per checkpoint
    #[arg(long, help_heading = "Output")]
    pub(super) json: bool,
}

const NOTES: &str = "\
A checkpoint of `fornax train` provides the settings of its run: model, dataset, input size, normalisation, precision, convolution algorithm. The command line wins.
Without --checkpoint, --model NAME --pretrained evaluates the published weights of a model.";

/// Settings that an evaluation depends on.
pub(super) const EVALUATION_SETTINGS: [&str; 42] = [
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
    "bad_image",
    "max_bad",
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
    "conv_algo",
];

/// Settings that `--split`, `--num-samples` and `--batch-size` replace.
const REPLACED_SETTINGS: [&str; 3] = ["val_split", "val_num_samples", "validation_batch_size"];

/// Arguments that are no settings.
const OWN_ARGUMENTS: [&str; 17] = [
    "dir",
    "checkpoint",
    "use_ema",
    "use_train_size",
    "valid_labels",
    "real_labels",
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

fn hide_unrelated(arg: clap::Arg) -> clap::Arg {
    let id = arg.get_id().as_str();
    let shown =
        OWN_ARGUMENTS.contains(&id) || EVALUATION_SETTINGS.contains(&id) && !REPLACED_SETTINGS.contains(&id);
    match id {
        "model" => arg.short('m'),
        "batch_size" => arg.help("Batch size, in images [default: 256]"),
        "bad_image" => arg.help(
            "Image that cannot be decoded: end with a list of them (error), or omit it (skip, replace)",
        ),
        "max_bad" => arg.help("Fraction of bad images above which the evaluation ends"),
        _ => arg.hide(!shown),
    }
}
