//! `fornax train`.
mod outcome;
mod recipe;
mod resume;
mod trace;
mod trial;

pub use recipe::RecipeArgs;

use super::print;
use super::signals::Signals;
use crate::Result;
use crate::batch_size_finder::{FittingBatchSize, find_batch_size};
use crate::config::Config;
use crate::experiment::{Experiment, conv_plans};
use crate::report::{Destination, Progress, ProgressMode, bytes};
use crate::settings::{AUTO_BATCH_SIZE, Settings};
use clap::value_parser;
use fornax_engine::Device;
use std::path::PathBuf;

/// Arguments of `fornax train`.
#[derive(clap::Args)]
#[command(args_override_self = true, disable_help_flag = true, after_help = NOTES)]
pub struct TrainArgs {
    #[command(flatten)]
    pub(super) recipe: RecipeArgs,

    /// Print help
    #[arg(long, short, action = clap::ArgAction::HelpShort, help_heading = "Run")]
    help: Option<bool>,
    /// Resume a run, with bit-identical results: its folder, one of its checkpoints, or `auto` for the run of --experiment
    /// if it exists
    #[arg(long, value_name = "PATH", help_heading = "Run")]
    resume: Option<PathBuf>,
    /// CPU threads; results do not depend on it [default: one per logical CPU]
    #[arg(long, value_name = "N", help_heading = "Run", value_parser = value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Device: auto (first CUDA device, else CPU), cpu, cuda, cuda:N, emulated or emulated:COUNT (CUDA kernels on the CPU, slow)
    #[arg(long, value_name = "DEVICE", default_value = "auto", help_heading = "Run")]
    device: crate::device::DeviceSpec,
    /// Capture each update as a CUDA graph and replay it; results do not depend on it [default: on a CUDA device, if possible]
    #[arg(long, help_heading = "Run")]
    cuda_graph: Option<bool>,
    /// Write a trace of the third update to FILE, for Perfetto or chrome://tracing: kernels, communication, uploads and waits for
    /// data on a CUDA device. Updates are not captured as CUDA graphs
    #[arg(long, value_name = "FILE", help_heading = "Run", conflicts_with = "dry_run")]
    trace: Option<PathBuf>,
    /// Check settings, dataset and model and print the plan, without training
    #[arg(long, help_heading = "Run")]
    dry_run: bool,
    /// Trial run: N batches of training and of validation, without a run folder
    #[arg(long, value_name = "N", help_heading = "Run", value_parser = value_parser!(u32).range(1..), conflicts_with_all = ["resume", "dry_run", "experiment"])]
    fast_dev_run: Option<u32>,
    /// Train on the same N batches in every epoch and validate on them: a model that can learn reaches an accuracy of 100%
    #[arg(long, value_name = "N", help_heading = "Run", value_parser = value_parser!(u32).range(1..), conflicts_with_all = ["resume", "fast_dev_run"])]
    overfit_batches: Option<u32>,

    /// Output folder; each run gets a folder in it [default: output/train]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    output: Option<PathBuf>,
    /// Name of the run's folder [default: date, time, model and image size]
    #[arg(long, value_name = "NAME", help_heading = "Output")]
    experiment: Option<String>,
    /// Replace an earlier run in the folder of --experiment
    #[arg(long, help_heading = "Output")]
    overwrite: bool,
    /// Progress display on stderr
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = "Output")]
    progress: ProgressMode,
    /// Updates between log lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u64).range(1..), help_heading = "Output")]
    log_interval: u64,
    /// Print the result as one JSON object, the last line of stdout: top1 top5 loss epochs seconds images_per_second output
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Print the SHA-256 of the final state of model, optimizer and EMA
    #[arg(long, help_heading = "Output")]
    print_hash: bool,
}

const NOTES: &str = "\
--help-all lists every option. Defaults that are not shown depend on the dataset; --dry-run prints them.
A flag with [=<BOOL>] can be written --flag or --no-flag; _ and - are equivalent in flag names.";

/// Runs `fornax train`.
pub fn execute(args: TrainArgs) -> Result<()> {
    super::threads::set_threads(args.threads)?;
    let (destination, checkpoint) = resume::destination(&args)?;
    let device = args.device.open()?;
    let mut settings = resume::merged_settings(&args, checkpoint.as_ref())?;
    if settings.batch_size == Some(AUTO_BATCH_SIZE) {
        // A resumed run keeps its batch size.
        let of_run =
            checkpoint.as_ref().and_then(|checkpoint| checkpoint.checkpoint.header.settings.batch_size);
        settings.batch_size = Some(of_run.map_or_else(|| fitting_batch_size(&settings, device), Ok)?);
    }
    if let Some(batches) = args.overfit_batches {
        settings = trial::overfitting(settings, batches as usize)?;
    }
    let config = Config::resolve(&settings)?;
    args.recipe.note_ignored(&config);
    conv_plans::reject_on_cpu(&args.recipe.settings, &device)?;
    let mut experiment = Experiment::new(config);
    experiment.device = device;
    experiment.resume = checkpoint;
    experiment.cuda_graph = args.cuda_graph;
    if let Some(path) = &args.trace {
        trace::trace_update(&mut experiment, path)?;
    }
    experiment.log_interval = args.log_interval;
    let described = destination.describe();
    experiment.output = Some(destination);
    if args.overfit_batches.is_some() {
        trial::validate_on_training_images(&mut experiment)?;
    }
    if let Some(batches) = args.fast_dev_run {
        trial::limit_batches(&mut experiment, batches as usize);
    }
    experiment.build()?;
    if args.dry_run {
        experiment.output.as_ref().map_or(Ok(()), Destination::check_writable)?;
        let plan = experiment.plan()?;
        return print(&format!("{plan}\noutput    {described}\n\n{}", experiment.config.settings.to_yaml()));
    }
    experiment.signals = Box::new(Signals::listen()?);
    experiment.callbacks.push(Progress::new(args.progress, args.log_interval));
    let result = experiment.run().map_err(|error| outcome::explain(error, &experiment))?;
    let hash = if args.print_hash { Some(experiment.hash()?) } else { None };
    let best = experiment.state.best(experiment.config.eval_metric);
    print(&outcome::text(&result, experiment.state.epoch, best, args.json, hash))
}

/// The batch size of `--batch-size auto`.
fn fitting_batch_size(settings: &Settings, device: Device) -> Result<u32> {
    let FittingBatchSize { batch_size, memory, limit } = find_batch_size(settings, device)?;
    let (memory, limit) = (bytes(memory), bytes(limit));
    eprintln!("--batch-size auto: {batch_size} images, {memory} of the {limit} that may be used on {device}");
    Ok(batch_size)
}
