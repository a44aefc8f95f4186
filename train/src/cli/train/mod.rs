//! `fornax train`.
mod devices;
mod notes;
mod outcome;
mod recipe;
mod resume;
mod resume_command;
mod seeds;
mod trace;
mod trial;

pub use recipe::RecipeArgs;

use super::compute::{ComputeArgs, ignored_conv_algo};
use super::print;
use super::signals::{Signals, acknowledge};
use crate::batch_size_finder::{FittingBatchSize, find_batch_size};
use crate::callbacks::CallbackList;
use crate::checkpoint;
use crate::config::{Config, IgnoredOption, ignored_warning};
use crate::device::DeviceSpec;
use crate::distributed::{DistributedRun, Identity, Launch, LaunchFlags, restart_with_deterministic_nccl};
use crate::error::ErrorKind;
use crate::experiment::{Experiment, RunCheckpoint, RunResult};
use crate::message::count;
use crate::report::{Destination, EpochMetrics, Progress, ProgressMode, bytes};
use crate::settings::{AUTO_BATCH_SIZE, EvalMetric, Settings};
use crate::{Error, Result};
use clap::value_parser;
use devices::DeviceList;
use fornax_engine::Device;
use std::path::PathBuf;

/// Arguments of `fornax train`.
#[derive(clap::Args, Clone)]
#[command(args_override_self = true, disable_help_flag = true, after_help = NOTES)]
pub struct TrainArgs {
    #[command(flatten)]
    pub(super) recipe: RecipeArgs,
    #[command(flatten)]
    launch: LaunchFlags,

    /// Print help
    #[arg(long, short, action = clap::ArgAction::HelpShort, help_heading = "Run")]
    help: Option<bool>,
    /// Resume a run, with bit-identical results: its folder, one of its checkpoints, or `auto` for the run of --experiment
    /// if it exists
    #[arg(long, value_name = "PATH", help_heading = "Run")]
    resume: Option<PathBuf>,
    /// Resume although the training images have changed; the epoch in progress starts again
    #[arg(long, help_heading = "Run", requires = "resume")]
    allow_changed_data: bool,
    #[command(flatten)]
    compute: ComputeArgs,
    /// CUDA devices of this machine to train on, such as 0,1: one process per device, as fornax launch starts them; --batch-size is
    /// per device. With --device emulated:COUNT, emulated devices
    #[arg(long, value_name = "LIST", help_heading = "Run")]
    devices: Option<DeviceList>,
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
    /// Trial run: N batches of training and of validation, without a run folder; 1 without N
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1", help_heading = "Run", value_parser = value_parser!(u32).range(1..), conflicts_with_all = ["resume", "dry_run", "experiment"])]
    fast_dev_run: Option<u32>,
    /// Train on the same N batches in every epoch and validate on them: a model that can learn reaches an accuracy of 100%
    #[arg(long, value_name = "N", help_heading = "Run", value_parser = value_parser!(u32).range(1..), conflicts_with = "fast_dev_run")]
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
    /// The run is one of several, by `--seeds`.
    #[arg(skip)]
    is_one_of_several: bool,
}

/// Results of a run, for stdout.
struct FinishedRun {
    result: RunResult,
    epochs: u32,
    metric: EvalMetric,
    best: Option<EpochMetrics>,
    hash: Option<String>,
}

const NOTES: &str = "\
--help-all lists every option. Defaults that are not shown depend on the dataset; --dry-run prints them.
A flag with [=<BOOL>] can be written --flag or --no-flag; _ and - are equivalent in flag names.";

/// Runs `fornax train`, as one rank if a launcher has started several. With several `--devices`, starts the ranks.
pub fn execute(args: TrainArgs) -> Result<()> {
    if let Some(devices) = args.devices.as_ref().filter(|_| !devices::is_started_process()) {
        devices.check(&args)?;
        if devices.count() > 1 {
            return devices.start(&args.launch);
        }
    }
    let launch = Launch::detect(&args.launch, |name| std::env::var(name).ok())?.map(|launch| {
        let job = launch.job.with_folder(args.experiment.as_deref(), args.output.as_deref());
        Launch { job, ..launch }
    });
    let seeds = args.recipe.settings()?.seeds;
    let finished = match (launch, seeds) {
        (None, Some(seeds)) => {
            args.compute.set_threads()?;
            return seeds::execute(&args, &seeds);
        }
        (Some(_), Some(_)) => {
            return Err(Error::usage("--seeds does not work with several ranks")
                .because("the ranks are launched for one run")
                .remedy("launch one run per seed, with --seed"));
        }
        (None, None) => {
            args.compute.set_threads()?;
            train(&args, None, args.open_device()?, &mut None)?
        }
        (Some(launch), None) => train_as_rank(&args, &launch)?,
    };
    let Some(finished) = finished else { return Ok(()) };
    print(&if args.json { format!("{}\n", outcome::json(&finished)) } else { outcome::text(&finished) })
}

impl TrainArgs {
    /// Opens the device of a run of one process.
    fn open_device(&self) -> Result<Device> {
        match &self.devices {
            Some(devices) => devices.open(self.compute.device, 0),
            None => self.compute.device.open(),
        }
    }

    /// Warnings about options without effect on a run and about unusual values.
    fn warnings(&self, config: &Config, device: &Device, has_ranks: bool) -> Vec<String> {
        let given = &self.recipe.settings;
        let on_cpu = [
            ("cudnn_benchmark", given.cudnn_benchmark == Some(true)),
            ("no_deterministic", given.deterministic == Some(false)),
            ("cuda_graph", self.cuda_graph == Some(true)),
            ("model_ema_force_cpu", config.ema_on_cpu),
        ];
        let mut recipe = self.recipe.clone();
        recipe.ignored.extend(resume::ignored_options(self));
        for (name, _) in on_cpu.iter().filter(|(_, is_given)| *is_given && *device == Device::Cpu) {
            recipe.ignored.push(IgnoredOption::new(*name, "the run computes on the CPU"));
        }
        recipe.ignored.extend(ignored_conv_algo(given.conv_algo, device));
        if self.launch.dist_timeout.is_some() && !has_ranks {
            recipe.ignored.push(IgnoredOption::new("dist_timeout", "the run has one process"));
        }
        recipe.warnings(config)
    }

    /// Prints a note in the form of --progress, before there is an experiment to report it.
    fn note(&self, text: &str) {
        match self.progress {
            ProgressMode::None => {}
            ProgressMode::Json => message!("{}", serde_json::json!({ "event": "note", "text": text })),
            _ => message!("{text}"),
        }
    }
}

/// Trains as one of the ranks that a launcher has started.
fn train_as_rank(args: &TrainArgs, launch: &Launch) -> Result<Option<FinishedRun>> {
    super::local_ranks::end_with_launcher();
    let settings = args.recipe.settings()?;
    if settings.deterministic != Some(false) && args.compute.device != DeviceSpec::Cpu {
        restart_with_deterministic_nccl()?;
    }
    args.compute.set_threads_of_rank(launch.local_world_size.unwrap_or(1))?;
    let device = match &args.devices {
        Some(devices) => devices.open(args.compute.device, launch.local_rank)?,
        None => args.compute.device.open_for_rank(launch.local_rank)?,
    };
    let mut settings = settings.given();
    // May differ from machine to machine. The dataset itself is compared later.
    ["data_dir", "workers"].iter().for_each(|key| drop(settings.remove(*key)));
    let run = DistributedRun::join(launch, &Identity::of_this_program(settings)?, device)?;
    let group = run.group.clone();
    let result = train(args, Some(run), device, &mut None);
    match &result {
        Ok(_) => group.finish()?,
        Err(error) if is_common_to_ranks(error) => drop(group.finish()),
        Err(error) if error.kind() == ErrorKind::Peer => return result.map_err(|error| group.explain(error)),
        Err(error) => group.abort(error.what()),
    }
    result
}

/// True if all ranks end with this error after the same update: they share the signals and the loss. Each reports it itself.
fn is_common_to_ranks(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted(_) | ErrorKind::NonFinite)
}

/// Trains one run, alone or as one of several ranks: rank 0 reads the checkpoint, resolves the settings, and writes files and results.
/// `None` after a dry run, and on other ranks. The signals are listened to from the first run on.
fn train(
    args: &TrainArgs,
    run: Option<DistributedRun>,
    device: Device,
    signals: &mut Option<Signals>,
) -> Result<Option<FinishedRun>> {
    let (rank, world_size) = run.as_ref().map_or((0, 1), |run| (run.rank(), run.world_size()));
    let (mut destination, mut checkpoint, mut settings) = (None, None, None);
    if rank == 0 {
        let (to, from) = resume::destination(args)?;
        let given = first_settings(args, from.as_ref(), world_size, device)?;
        from.as_ref().map_or(Ok(()), |from| check_dataset_of_run(args, &given, from))?;
        settings = Some(given);
        (destination, checkpoint) = (Some(to), from);
    }
    let mut settings = match &run {
        Some(run) => run.share("the settings", settings.as_ref())?,
        None => settings.unwrap_or_default(),
    };
    if rank > 0 {
        // The dataset may have another path on another machine.
        let own = args.recipe.settings()?;
        settings.data_dir = own.data_dir.or(settings.data_dir);
        settings.workers = own.workers.or(settings.workers);
    }
    if let Some(batches) = args.overfit_batches {
        settings = trial::overfitting(settings, batches as usize, world_size)?;
    }
    let mut config = Config::resolve_for(&settings, world_size)?;
    config.ignore_dataset_options();
    if rank == 0 {
        args.warnings(&config, &device, run.is_some()).iter().for_each(|warning| args.note(warning));
    }
    let mut experiment = Experiment::new(config);
    experiment.distributed = run;
    experiment.device = device;
    experiment.resume = checkpoint;
    experiment.output = destination;
    let result = run_experiment(args, &mut experiment, signals);
    if let (Err(error), Some(run)) = (&result, &experiment.distributed)
        && !is_common_to_ranks(error)
        && error.kind() != ErrorKind::Peer
    {
        // Before the experiment is dropped, which waits for its queued operations: the other ranks may join them no more.
        run.group.abort(error.what());
    }
    result
}

/// Builds an experiment and runs it, or prints its plan.
fn run_experiment(
    args: &TrainArgs,
    experiment: &mut Experiment,
    signals: &mut Option<Signals>,
) -> Result<Option<FinishedRun>> {
    let rank = experiment.rank();
    experiment.cuda_graph = args.cuda_graph.filter(|_| experiment.device != Device::Cpu);
    if let Some(path) = &args.trace {
        trace::trace_update(experiment, path, rank)?;
    }
    experiment.log_interval = args.log_interval;
    if args.overfit_batches.is_some() {
        trial::validate_on_training_images(experiment)?;
    }
    if let Some(batches) = args.fast_dev_run {
        trial::limit_batches(experiment, batches as usize);
    }
    let described = experiment.output.as_ref().map_or(String::new(), Destination::describe);
    experiment.allow_changed_data = args.allow_changed_data;
    let ignored = experiment.config.ignored.len();
    experiment.build()?;
    // The dataset decides the channels.
    let of_data = ignored_warning(&experiment.config.ignored[ignored..]);
    of_data.iter().filter(|_| rank == 0).for_each(|warning| args.note(warning));
    notes::add(args, experiment)?;
    if args.dry_run {
        experiment.output.as_ref().map_or(Ok(()), Destination::check_writable)?;
        let mut plan = experiment.plan()?;
        plan.output = Some(described);
        let space = experiment.output.as_ref().and_then(|to| plan.disk.as_ref()?.warning(to.path()));
        if rank == 0 {
            experiment.take_notes().iter().chain(&space).for_each(|note| args.note(note));
            print(&format!("{plan}\n\n{}", experiment.config.settings.to_yaml()))?;
        }
        return Ok(None);
    }
    let signals = match signals {
        Some(signals) => signals,
        none => none.insert(listen(args, rank)?),
    };
    experiment.signals = Box::new(signals.clone());
    if rank == 0 {
        experiment.callbacks.push(Progress::new(args.progress, args.log_interval));
    }
    let result = experiment.run();
    // Clears the progress line before anything is printed.
    experiment.callbacks = CallbackList::new();
    let result = result.map_err(|error| outcome::explain(error, experiment, args))?;
    if rank > 0 {
        return Ok(None);
    }
    let hash = if args.print_hash { Some(experiment.hash()?) } else { None };
    let metric = experiment.config.eval_metric;
    let best = experiment.state.best(metric).cloned();
    Ok(Some(FinishedRun { result, epochs: experiment.state.epoch, metric, best, hash }))
}

/// Listens to the signals of a run, and acknowledges the first one: a launcher of this program does so for its ranks.
fn listen(args: &TrainArgs, rank: usize) -> Result<Signals> {
    let (progress, is_heard) = (args.progress, rank == 0 && super::local_ranks::launcher().is_none());
    Signals::listen(move |signal| {
        if is_heard {
            acknowledge(signal, progress);
        }
    })
}

/// Errors if the dataset of a resumed run does not exist and the command line names no other.
fn check_dataset_of_run(args: &TrainArgs, settings: &Settings, resumed: &RunCheckpoint) -> Result<()> {
    if args.recipe.settings()?.data_dir.is_some() {
        return Ok(());
    }
    let missing = checkpoint::missing_dataset(settings, resumed.checkpoint.path(), "--data-dir DIR");
    missing.map_or(Ok(()), Err)
}

/// The settings of the checkpoint, the configuration files and the command line, with the batch size of `--batch-size auto`.
fn first_settings(
    args: &TrainArgs,
    checkpoint: Option<&RunCheckpoint>,
    world_size: usize,
    device: Device,
) -> Result<Settings> {
    let mut settings = resume::merged_settings(args, checkpoint, world_size)?;
    if settings.batch_size == Some(AUTO_BATCH_SIZE) {
        // A resumed run keeps its batch size.
        let of_run = checkpoint.and_then(|checkpoint| {
            let header = &checkpoint.checkpoint.header;
            Some(resume::batch_size_of_a_rank(header.settings.batch_size?, header.world_size, world_size))
        });
        let found = || fitting_batch_size(args, &resume::without_ranks(settings.clone()), device);
        settings.batch_size = Some(of_run.map_or_else(found, Ok)?);
    }
    Ok(settings)
}

/// The batch size of `--batch-size auto`.
fn fitting_batch_size(args: &TrainArgs, settings: &Settings, device: Device) -> Result<u32> {
    let FittingBatchSize { batch_size, memory, limit } = find_batch_size(settings, device)?;
    let (images, memory, limit) = (count(batch_size.into(), "image"), bytes(memory), bytes(limit));
    args.note(&format!("--batch-size auto: {images}, {memory} of the {limit} that may be used on {device}"));
    Ok(batch_size)
}
