//! A complete run: data, model, loaders, optimizer, loss, schedule and callbacks, built from a configuration.
//!
//! [`Experiment::run`] does everything in one call. Before it, each part can be built by its `build_*` method and changed, or replaced by
//! setting its field; parts that are set are not built.
//!
//! ```no_run
//! use fornax::config::Config;
//! use fornax::experiment::Experiment;
//! use fornax::settings::Settings;
//!
//! # fn main() -> fornax::Result<()> {
//! let settings = Settings { epochs: Some(3), ..Settings::default() };
//! let mut experiment = Experiment::new(Config::resolve(&settings)?);
//! let result = experiment.run()?;
//! println!("top-1 {:.2}%", result.evaluation.top1);
//! # Ok(()) }
//! ```
pub mod build;
mod callbacks;
pub mod conv_plans;
mod disk_space;
mod image_check;
mod plan;
mod reports;
mod resume;

pub use build::RunData;
pub use disk_space::DiskEstimate;
pub use plan::RunPlan;
pub use resume::{OptionChange, RunCheckpoint};

use crate::callbacks::{Callback, CallbackList};
use crate::checkpoint::{self, CheckpointHeader};
use crate::config::Config;
use crate::data::BadImages;
use crate::distributed::{DataParallel, DistributedRun};
use crate::ema::Ema;
use crate::loader::Loader;
use crate::optim::Optimizer;
use crate::report::{Destination, Machine, RunFolder};
use crate::schedule::Schedule;
use crate::settings::NonfinitePolicy;
use crate::train_step::{CudaGraphMode, TrainStep, TrainStepOptions};
use crate::trainer::{DISK_WAIT, Evaluation, Evaluator, RunSignals, Trainer, TrainerOptions, TrainerState};
use crate::{Error, Result};
use fornax_engine::Device;
use fornax_nn::loss::Loss;
use fornax_nn::models::Model;
use fornax_nn::{Module, move_to};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Parts of a run, and where it computes and writes.
pub struct Experiment {
    /// The configuration.
    pub config: Config,
    /// Device of the model.
    pub device: Device,
    /// Output folder; `None`: the run writes no files.
    pub output: Option<Destination>,
    /// Updates between log lines in the output folder.
    pub log_interval: u64,
    /// Capture of updates as CUDA graphs; `None`: on a CUDA device, if possible.
    pub cuda_graph: Option<bool>,
    /// Checkpoint from which the run is resumed.
    pub resume: Option<RunCheckpoint>,
    /// Resume although the training images differ from those of the checkpoint's run.
    pub allow_changed_data: bool,
    /// Check the headers of all image files before the first update.
    pub check_images: bool,
    /// Signals for the run.
    pub signals: Box<dyn RunSignals>,
    /// The ranks of the run, if there are several. Rank 0 alone writes files and reads the checkpoint of a resumed run.
    pub distributed: Option<DistributedRun>,
    /// Callbacks, called after those of [`Experiment::build_callbacks`]. They are kept after a run, with their state.
    pub callbacks: CallbackList<'static>,
    /// Dataset, input of the network and number of classes.
    pub data: Option<RunData>,
    /// The model. A replaced model keeps its weights.
    pub model: Option<Box<dyn Model>>,
    /// Training loss.
    pub criterion: Option<Arc<dyn Loss>>,
    /// The optimizer.
    pub optimizer: Option<Optimizer>,
    /// Learning-rate schedule.
    pub scheduler: Option<Schedule>,
    /// Training batches.
    pub train_loader: Option<Loader>,
    /// Validation batches.
    pub validation_loader: Option<Loader>,
    /// The training step, with the EMA.
    pub train_step: Option<TrainStep>,
    /// Progress of the run.
    pub state: TrainerState,
    /// The run's folder, once it is open.
    pub folder: Option<PathBuf>,
    /// Source of the initial weights, if they were loaded.
    weights_source: Option<String>,
    /// Messages before the run.
    notes: Vec<String>,
    /// Options of a resumed run that differ from the checkpoint's.
    changes: Vec<OptionChange>,
    is_restored: bool,
}

/// Results of a run.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// The last evaluation.
    pub evaluation: Evaluation,
    /// Wall-clock time of this process from the first update to the last evaluation.
    pub seconds: f64,
    /// Training images per second of `seconds`.
    pub images_per_second: f64,
    /// The run's folder, if it has one.
    pub folder: Option<PathBuf>,
}

impl Experiment {
    /// Creates a run on the CPU that writes no files.
    pub fn new(config: Config) -> Experiment {
        Experiment {
            config,
            device: Device::Cpu,
            output: None,
            log_interval: 50,
            cuda_graph: None,
            resume: None,
            allow_changed_data: false,
            check_images: true,
            signals: Box::new(()),
            distributed: None,
            callbacks: CallbackList::new(),
            data: None,
            model: None,
            criterion: None,
            optimizer: None,
            scheduler: None,
            train_loader: None,
            validation_loader: None,
            train_step: None,
            state: TrainerState::default(),
            folder: None,
            weights_source: None,
            notes: vec![],
            changes: vec![],
            is_restored: false,
        }
    }

    /// Builds every part, restores the checkpoint of a resumed run, trains to the last epoch and returns the results.
    pub fn run(&mut self) -> Result<RunResult> {
        self.build()?;
        let folder = self.open_folder()?;
        self.folder = folder.as_ref().map(|folder| folder.path().to_path_buf());
        let mut callbacks = self.build_callbacks(folder)?;
        let built = callbacks.len();
        callbacks.append(std::mem::take(&mut self.callbacks));
        let result = self.run_with(&mut callbacks);
        self.callbacks = callbacks.split_off(built);
        result
    }

    fn run_with(&mut self, callbacks: &mut CallbackList) -> Result<RunResult> {
        let mut plan = self.plan()?;
        plan.output = self.folder.as_ref().map(|path| path.display().to_string());
        callbacks.on_plan(&plan)?;
        let space = self.folder.as_deref().and_then(|folder| plan.disk.as_ref()?.warning(folder));
        for note in self.take_notes().into_iter().chain(space) {
            callbacks.on_message(&note)?;
        }
        if self.check_images {
            image_check::check_images(self, callbacks)?;
        }
        // Without --cudnn-benchmark, fused convolutions are timed against separate operations.
        let shares_plans = self.device != Device::Cpu && self.peers().is_some();
        let mut trainer = self.trainer()?;
        if shares_plans {
            trainer.share_conv_plans()?;
        }
        let started = Instant::now();
        let batches = trainer.batches() as u64;
        let batches_done = |state: &TrainerState| u64::from(state.epoch) * batches + state.batch as u64;
        let first = batches_done(&trainer.state);
        let result = trainer.run(callbacks);
        self.state = trainer.state;
        let seconds = started.elapsed().as_secs_f64();
        let batch_size = self.train_loader.as_ref().map_or(0, |loader| loader.options().batch_size);
        // Rolled back or restarted epochs are not counted.
        let images = batches_done(&self.state).saturating_sub(first) * batch_size as u64;
        let images_per_second = images as f64 / seconds;
        Ok(RunResult { evaluation: result?, seconds, images_per_second, folder: self.folder.clone() })
    }

    /// Builds every part that is not set, and restores the checkpoint of a resumed run. Writes nothing.
    pub fn build(&mut self) -> Result<()> {
        // An impossible value is reported before anything is written.
        disk_wait()?;
        self.build_data()?;
        self.build_model()?;
        self.build_criterion();
        self.build_scheduler();
        self.build_optimizer()?;
        self.build_train_loader()?;
        self.build_validation_loader()?;
        self.build_train_step()?;
        self.restore()?;
        self.output.as_ref().map_or(Ok(()), Destination::check)
    }

    /// Opens the dataset, unless it is set.
    pub fn build_data(&mut self) -> Result<&RunData> {
        if self.data.is_none() {
            self.data = Some(build::open(&mut self.config)?);
            if let (Some(run), Some(data)) = (&self.distributed, &self.data) {
                run.group.check_equal("their dataset", &data.fingerprint())?;
            }
        }
        let data = self.data.as_ref().expect("it was just set");
        build::check_batch_size(&self.config, &data.splits)?;
        Ok(data)
    }

    /// Builds the model with its initial weights on the device, unless it is set; a model that is set is moved there.
    pub fn build_model(&mut self) -> Result<&dyn Model> {
        self.build_data()?;
        let data = self.data.as_ref().expect("it was built");
        if self.model.is_none() {
            let model = build::build(&self.config, &data.input, data.num_classes)?;
            // A resumed run loads its weights from the checkpoint, and other ranks get those of rank 0.
            if self.resume.is_none() && self.rank() == 0 {
                self.weights_source = build::load_weights(&self.config, &*model)?;
            }
            self.config.model.init_head(&*model)?;
            conv_plans::set_options(&self.config, &self.device)?;
            self.model = Some(model);
        }
        let model = self.model.as_deref().expect("it was just set");
        move_to(model, &self.device)?;
        Ok(model)
    }

    /// Builds the training loss, unless it is set.
    pub fn build_criterion(&mut self) -> Arc<dyn Loss> {
        self.criterion.get_or_insert_with(|| self.config.loss.clone()).clone()
    }

    /// Builds the learning-rate schedule, unless it is set.
    pub fn build_scheduler(&mut self) -> &Schedule {
        self.scheduler.get_or_insert_with(|| self.config.schedule.clone())
    }

    /// Builds the optimizer of the model's parameters, unless it is set.
    pub fn build_optimizer(&mut self) -> Result<&Optimizer> {
        self.build_model()?;
        if self.optimizer.is_none() {
            self.optimizer = Some(self.config.optimizer(self.model.as_deref().expect("it was built"))?);
        }
        Ok(self.optimizer.as_ref().expect("it was just set"))
    }

    /// Builds the training loader, unless it is set.
    pub fn build_train_loader(&mut self) -> Result<&Loader> {
        if self.train_loader.is_none() {
            self.build_data()?;
            let data = self.data.as_ref().expect("it was built");
            let loader = build::training_loader(&self.config, data, self.device, self.rank())?;
            self.train_loader = Some(loader);
        }
        Ok(self.train_loader.as_ref().expect("it was just set"))
    }

    /// Builds the validation loader, unless it is set.
    pub fn build_validation_loader(&mut self) -> Result<&Loader> {
        if self.validation_loader.is_none() {
            self.build_data()?;
            let data = self.data.as_ref().expect("it was built");
            let (policy, max_bad) = (self.config.data.bad_image, self.config.data.max_bad);
            let images = data.splits.validation.as_ref().map_or(0, |split| split.len());
            let bad_images = Some(Arc::new(BadImages::of_validation(policy, max_bad, images)));
            let loader = build::validation_loader(&self.config, data, self.device, self.rank(), bad_images)?;
            self.validation_loader = Some(loader);
        }
        Ok(self.validation_loader.as_ref().expect("it was just set"))
    }

    /// Builds the training step and its EMA, unless it is set.
    pub fn build_train_step(&mut self) -> Result<&mut TrainStep> {
        if self.train_step.is_none() {
            self.build_optimizer()?;
            let loss = self.build_criterion();
            let (data, model) = (self.data.as_ref().expect("built"), self.model.as_deref().expect("built"));
            let ema = build::create_ema(&self.config, data, model, self.device)?;
            let optimizer = self.optimizer.as_ref().expect("built");
            let options = TrainStepOptions {
                precision: self.config.precision,
                conv_algorithm: self.config.conv_algorithm,
                loss,
                checkpointing: self.config.checkpointing,
                seed: self.config.seed,
                cuda_graph: cuda_graph_mode(self.cuda_graph, &self.device, optimizer)?,
                ema_after_check: self.config.on_nonfinite == NonfinitePolicy::Skip,
                sync_bn: self.peers().filter(|_| self.config.sync_bn).map(|run| run.collective.clone()),
            };
            let preparation = build::preparation(&self.config, data);
            let data_parallel = self.peers().map(|run| {
                let parameters = optimizer.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone()));
                let (group, collective) = (run.group.clone(), run.collective.clone());
                DataParallel::new(group, collective, parameters.collect(), self.config.compression)
            });
            let step = TrainStep::new(options, Some(preparation), self.device).with_ema(ema);
            self.train_step = Some(step.with_data_parallel(data_parallel.transpose()?));
        }
        Ok(self.train_step.as_mut().expect("it was just set"))
    }

    /// Builds the callbacks of the configuration: checkpoints and, in a run's folder, its logs, summary and plots.
    pub fn build_callbacks(&self, folder: Option<RunFolder>) -> Result<CallbackList<'static>> {
        callbacks::build(self, folder)
    }

    /// The plan of the run, without the name of its output folder.
    pub fn plan(&mut self) -> Result<RunPlan> {
        self.build_model()?;
        let (data, model) = (self.data.as_ref().expect("built"), self.model.as_deref().expect("built"));
        let plan = RunPlan::new(&self.config, data, model, self.device, self.weights_source.as_deref());
        let folder = self.folder.as_deref().or(self.output.as_ref().map(Destination::path));
        let disk = folder.map(|folder| DiskEstimate::new(&self.config, model, folder));
        Ok(RunPlan { disk, ..plan })
    }

    /// Takes the messages that are shown before the run.
    pub(crate) fn take_notes(&mut self) -> Vec<String> {
        let mut notes = std::mem::take(&mut self.notes);
        notes.extend(resume::changes_note(&self.changes));
        notes
    }

    /// Options of a resumed run that differ from its checkpoint's, once it is built.
    pub fn changes(&self) -> &[OptionChange] {
        &self.changes
    }

    /// Adds a message that is shown before the run.
    pub(crate) fn add_note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Evaluates the EMA model if there is one on the model's device, else the model.
    pub fn evaluate(&mut self) -> Result<Evaluation> {
        self.build()?;
        self.trainer()?.evaluate()
    }

    /// Evaluates a model on the validation split, in the precision of the configuration.
    pub fn evaluate_model(&mut self, model: &dyn Module) -> Result<Evaluation> {
        self.build_validation_loader()?;
        let data = self.data.as_ref().expect("built");
        let preparation = build::preparation(&self.config, data);
        let evaluator = Evaluator {
            loader: self.validation_loader.as_ref().expect("built"),
            num_classes: data.num_classes,
            precision: self.config.precision,
            conv_algorithm: self.config.conv_algorithm,
            preparation: Some(&preparation),
            keeps_top5: false,
            group: self.distributed.as_ref().map(|run| &*run.group),
        };
        evaluator.evaluate(model, &|| Ok(()))
    }

    /// The EMA of the model, if there is one.
    pub fn ema(&self) -> Option<&Ema> {
        self.train_step.as_ref()?.ema()
    }

    /// SHA-256 of the tensors of model, optimizer and EMA: equal for equal states.
    pub fn hash(&mut self) -> Result<String> {
        self.build_train_step()?;
        let model = self.model.as_deref().expect("built");
        checkpoint::hash(&checkpoint::tensors(model, self.optimizer.as_ref(), self.ema())?)
    }

    /// Metadata of the run's checkpoints.
    pub fn checkpoint_header(&mut self) -> Result<CheckpointHeader> {
        self.build_data()?;
        let data = self.data.as_ref().expect("built");
        let header = CheckpointHeader::new(&self.config.settings, &data.splits, &data.checksums, &data.input);
        Ok(header.with_world_size(self.config.world_size))
    }

    fn trainer(&mut self) -> Result<Trainer<'_>> {
        let data = self.data.as_ref().expect("built");
        let mut trainer = Trainer::new(
            self.model.as_deref().expect("built"),
            self.optimizer.as_ref().expect("built"),
            self.scheduler.as_ref().expect("built"),
            self.train_loader.as_ref().expect("built"),
            self.validation_loader.as_ref().expect("built"),
            self.train_step.as_mut().expect("built"),
            data.num_classes,
            trainer_options(&self.config)?,
        );
        trainer.device = self.device;
        trainer.signals = &*self.signals;
        trainer.distributed = self.distributed.as_ref();
        trainer.state = self.state.clone();
        Ok(trainer)
    }

    /// The run, if it has other ranks: one rank needs no reductions.
    fn peers(&self) -> Option<&DistributedRun> {
        self.distributed.as_ref().filter(|run| run.world_size() > 1)
    }

    /// Rank of this process, 0 if it is the only one.
    pub(crate) fn rank(&self) -> usize {
        self.distributed.as_ref().map_or(0, DistributedRun::rank)
    }

    /// Opens the run's folder and writes `args.yaml` and `env.json`.
    fn open_folder(&mut self) -> Result<Option<RunFolder>> {
        let Some(destination) = &self.output else { return Ok(None) };
        let data = self.data.as_ref().expect("built");
        // As timm names it.
        let model = self.config.model.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let name = format!("{model}-{}", data.input.size[0]);
        let mut folder = RunFolder::open(destination, &name, self.log_interval, &self.state)?;
        let earlier =
            folder.describe_run(&self.config.settings, &Machine::detect(), self.config.world_size)?;
        if self.resume.is_some() {
            self.changes.extend(earlier);
            folder.record_changes(&self.changes, &self.state)?;
        }
        Ok(Some(folder))
    }
}

/// Options of the trainer.
fn trainer_options(config: &Config) -> Result<TrainerOptions> {
    Ok(TrainerOptions {
        grad_accum_steps: config.grad_accum_steps,
        batches_per_epoch: config.batches_per_epoch,
        val_interval: config.val_interval,
        recovery_interval: config.recovery_interval,
        eval_metric: config.eval_metric,
        on_nonfinite: config.on_nonfinite,
        dist_bn: config.dist_bn,
        disk_wait: disk_wait()?,
    })
}

/// Environment variable with the longest wait for space on a full disk, or for a removed folder, at the end of a run, in seconds.
const DISK_WAIT_VARIABLE: &str = "FORNAX_DISK_WAIT";

/// The longest wait. Errors if the variable is not a number of seconds.
fn disk_wait() -> Result<Duration> {
    let Ok(text) = std::env::var(DISK_WAIT_VARIABLE) else { return Ok(DISK_WAIT) };
    let seconds = text.trim().parse::<f64>().ok();
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(|| {
        Error::usage("the longest wait for disk space is not a number of seconds")
            .at(format!("{DISK_WAIT_VARIABLE}={text}"))
            .remedy("set it to a number, 0 for no wait, or unset it")
    })
}

/// CUDA graph mode from `--cuda-graph`, device and optimizer.
fn cuda_graph_mode(requested: Option<bool>, device: &Device, optimizer: &Optimizer) -> Result<CudaGraphMode> {
    match (requested, device) {
        (Some(true), Device::Cpu) => Err(Error::usage("--cuda-graph would have no effect")
            .because("the run computes on the CPU")
            .remedy("omit it, or choose another --device")),
        (Some(true), _) if optimizer.is_second_order() => {
            Err(Error::usage("--cuda-graph does not work with this optimizer")
                .because("the optimizer differentiates the backward pass, which cannot be captured")
                .remedy("omit it, or choose another --opt"))
        }
        (Some(true), _) => Ok(CudaGraphMode::Always),
        (None, _) if optimizer.is_second_order() => Ok(CudaGraphMode::Never),
        (Some(false), _) => Ok(CudaGraphMode::Never),
        (None, _) => Ok(CudaGraphMode::Auto),
    }
}
