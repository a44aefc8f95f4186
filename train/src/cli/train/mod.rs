//! `fornax train`.
mod callbacks;
mod conv_plans;
mod outcome;
mod prepare;
mod resume;

pub use prepare::set_threads;

use super::print;
use super::signals::Signals;
use crate::checkpoint::{self, CheckpointHeader, durable};
use crate::config::Config;
use crate::data::Loader;
use crate::optim::Optimizer;
use crate::report::{Callback, Machine, Progress, ProgressMode, RunFolder, summary_csv, write_plots};
use crate::settings::Settings;
use crate::train_step::{CudaGraphMode, TrainStep, TrainStepOptions};
use crate::trainer::{SaveReason, Trainer, TrainerState, UpdateStatus};
use crate::{Error, Result};
use clap::value_parser;
use fornax_engine::Device;
use std::path::PathBuf;
use std::time::Instant;

/// Arguments of `fornax train`.
#[derive(clap::Args)]
#[command(args_override_self = true, disable_help_flag = true, after_help = NOTES)]
pub struct TrainArgs {
    #[command(flatten)]
    settings: Settings,

    /// Print help
    #[arg(long, short, action = clap::ArgAction::HelpShort, help_heading = "Run")]
    help: Option<bool>,
    /// YAML file with settings; repeatable: later files win, and the command line wins over all
    #[arg(long, short = 'c', value_name = "FILE", help_heading = "Run")]
    config: Vec<PathBuf>,
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
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Run")]
    cuda_graph: Option<bool>,
    /// Check settings, dataset and model and print the plan, without training
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, help_heading = "Run")]
    dry_run: bool,

    /// Output folder; each run gets a folder in it [default: output/train]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    output: Option<PathBuf>,
    /// Name of the run's folder [default: date, time, model and image size]
    #[arg(long, value_name = "NAME", help_heading = "Output")]
    experiment: Option<String>,
    /// Replace an earlier run in the folder of --experiment
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, help_heading = "Output")]
    overwrite: bool,
    /// Progress display on stderr
    #[arg(long, value_name = "MODE", default_value = "auto", help_heading = "Output")]
    progress: ProgressMode,
    /// Updates between log lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u64).range(1..), help_heading = "Output")]
    log_interval: u64,
    /// Print the result as one JSON object, the last line of stdout: top1 top5 loss epochs seconds images_per_second output
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, help_heading = "Output")]
    json: bool,
    /// Print the SHA-256 of the final state of model, optimizer and EMA
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, help_heading = "Output")]
    print_hash: bool,
}

const NOTES: &str = "\
Defaults that are not shown depend on the dataset; --dry-run prints them.
A flag with [=<BOOL>] can be written --flag or --no-flag; _ and - are equivalent in flag names.";

/// Runs `fornax train`.
pub fn execute(args: TrainArgs) -> Result<()> {
    prepare::set_threads(args.threads)?;
    let (destination, checkpoint) = resume::destination(&args)?;
    let config = Config::resolve(&resume::merged_settings(&args, checkpoint.as_ref())?)?;
    let data = prepare::load(&config)?;
    let model = prepare::build(&config, &data)?;
    // A resumed run loads its weights from the checkpoint.
    let origin = if checkpoint.is_none() { prepare::load_weights(&config, &*model)? } else { None };
    config.model.init_head(&*model)?;
    let device = args.device.open()?;
    conv_plans::set_options(&args.settings, &config, &device)?;
    fornax_nn::move_to(&*model, &device)?;
    let optimizer = config.optimizer(&*model)?;
    let ema = prepare::create_ema(&config, &data, &*model, device)?;
    let (mut state, mut plan_warning) = (TrainerState::default(), None);
    if let Some(checkpoint) = &checkpoint {
        resume::check_same_run(&config, &data, &checkpoint.header)?;
        checkpoint.restore(&*model, &optimizer, ema.as_ref())?;
        state = checkpoint.header.state.clone();
        if let Some(plans) = &checkpoint.header.conv_plans {
            plan_warning = conv_plans::restore(&device, plans)?;
        }
    }
    destination.check()?;
    let plan = prepare::plan(&config, &data, &*model, device, origin.as_deref());
    if args.dry_run {
        print(&format!("{plan}\noutput    {}\n\n{}", destination.describe(), config.settings.to_yaml()));
        return Ok(());
    }

    let graph = cuda_graph_mode(args.cuda_graph, &device, &optimizer)?;
    let signals = Signals::listen()?;
    let mut trainer = Trainer {
        model: &*model,
        device,
        optimizer,
        schedule: &config.schedule,
        train: Loader::training(&data.train, config.batch_size, config.seed, config.augment),
        validation: Loader::validation(&data.validation, config.validation_batch_size),
        num_classes: data.classes.len(),
        step: TrainStep::new(
            TrainStepOptions {
                precision: config.precision,
                loss: config.loss.clone(),
                checkpointing: config.checkpointing,
                seed: config.seed,
                cuda_graph: graph,
            },
            Some(data.statistics.clone()),
            device,
        )
        .with_ema(ema),
        grad_accum_steps: config.grad_accum_steps,
        eval_metric: config.eval_metric,
        interrupt: &|| signals.last(),
        state,
        status: UpdateStatus::default(),
    };
    let name = format!("{}-{}", config.model.name, data.train.size[0]);
    let folder = RunFolder::open(&destination, &name, args.log_interval, &trainer.state)?;
    let path = folder.path().to_path_buf();
    let (best, last) = (folder.checkpoint("best"), folder.checkpoint("last"));
    folder.describe_run(&config.settings, &Machine::detect())?;
    let mut callbacks = callbacks::Callbacks::new(Progress::new(args.progress, args.log_interval), folder);
    callbacks.on_message(&format!("{plan}\noutput    {}", path.display()))?;
    if checkpoint.is_some() {
        let TrainerState { epoch, update, .. } = trainer.state;
        callbacks.on_message(&format!("resuming after {epoch} epochs and {update} updates"))?;
    }
    if let Some(warning) = plan_warning {
        callbacks.on_message(&warning)?;
    }

    let mut save = |trainer: &Trainer, why: SaveReason| -> Result<()> {
        let plans = conv_plans::of_device(&trainer.device)?;
        let header = CheckpointHeader::new(&config.settings, &trainer.state, &data, plans);
        let ema = trainer.step.ema();
        if why == SaveReason::EpochEnd(true) {
            durable::write(
                &best,
                &checkpoint::serialize(&checkpoint::tensors(trainer.model, None, ema)?, &header)?,
            )?;
        }
        let tensors = checkpoint::tensors(trainer.model, Some(&trainer.optimizer), ema)?;
        durable::write(&last, &checkpoint::serialize(&tensors, &header)?)?;
        durable::write(&path.join("summary.csv"), summary_csv(&trainer.state.history).as_bytes())
    };
    let batches = trainer.train.batches() as u64;
    let batches_done = |state: &TrainerState| u64::from(state.epoch) * batches + state.batch as u64;
    let (first, started) = (batches_done(&trainer.state), Instant::now());
    let result = trainer.run(&mut callbacks, &mut save);
    let evaluation = result.map_err(|error| outcome::explain(error, &trainer.state, &path))?;
    let seconds = started.elapsed().as_secs_f64();

    let updates_per_epoch = batches.div_ceil(config.grad_accum_steps as u64);
    let plots = path.join("plots");
    write_plots(
        &plots,
        &trainer.state,
        &config.schedule,
        updates_per_epoch,
        &config.loss_name,
        &data.classes,
        &evaluation,
    )?;
    drop(callbacks);
    let images = (batches_done(&trainer.state) - first) * config.batch_size as u64;
    let outcome = outcome::Outcome { evaluation, seconds, images_per_second: images as f64 / seconds, path };
    print(&outcome.text(&trainer, args.json, args.print_hash)?);
    Ok(())
}

/// CUDA graph mode from `--cuda-graph`, device and optimizer.
fn cuda_graph_mode(requested: Option<bool>, device: &Device, optimizer: &Optimizer) -> Result<CudaGraphMode> {
    match (requested, device) {
        (Some(true), Device::Cpu) => Err(Error::usage("--cuda-graph would have no effect")
            .because("the run computes on the CPU")
            .remedy("leave it out, or choose another --device")),
        (Some(true), _) if optimizer.is_second_order() => {
            Err(Error::usage("--cuda-graph does not work with this optimizer")
                .because("the optimizer differentiates the backward pass, which cannot be captured")
                .remedy("leave it out, or choose another --opt"))
        }
        (Some(true), _) => Ok(CudaGraphMode::Always),
        (None, _) if optimizer.is_second_order() => Ok(CudaGraphMode::Never),
        (Some(false), _) => Ok(CudaGraphMode::Never),
        (None, _) => Ok(CudaGraphMode::Auto),
    }
}
