//! Training step: forward and backward passes over the batches of one update, and the optimizer. On a CUDA device the step is captured
//! as a CUDA graph for each set of batch shapes and replayed: one call instead of hundreds of kernel launches.
use crate::distributed::DataParallel;
use crate::ema::Ema;
use crate::loader::{Batch, BatchPreparation};
use crate::optim::Optimizer;
use crate::{Error, Result};
use fornax_engine::cuda::{CudaGraph, PendingRead, compile_in_background};
use fornax_engine::{
    Collective, ConvAlgorithm, DType, Device, PendingUpdateStats, Shape, Tensor, UpdateStats,
};
use fornax_kernels::BackgroundCompilation;
use fornax_nn::loss::{CrossEntropy, Loss};
use fornax_nn::precision::Operation;
use fornax_nn::{Context, Module, Precision, StateKind, increment_num_batches_tracked, state_entries};
use std::sync::Arc;

/// Options of a training step.
#[derive(Clone, Debug)]
pub struct TrainStepOptions {
    /// Mixed precision: the dtype of each kind of operation.
    pub precision: Precision,
    /// Algorithm of convolutions on the CPU.
    pub conv_algorithm: ConvAlgorithm,
    /// Loss function.
    pub loss: Arc<dyn Loss>,
    /// Gradient checkpointing: recompute blocks in the backward pass instead of storing their activations.
    pub checkpointing: bool,
    /// Seed of random layers such as dropout. With the same seed on all ranks and [`Batch::global_rows`], their masks equal the masks of one
    /// process with the whole batch.
    pub seed: u64,
    /// CUDA graph capture.
    pub cuda_graph: CudaGraphMode,
    /// Leaves the EMA as it is: the caller updates it by [`TrainStep::update_ema`] when it has checked the update.
    pub ema_after_check: bool,
    /// Ranks whose statistics batch norm uses: synchronised batch norm.
    pub sync_bn: Option<Arc<dyn Collective>>,
}

impl Default for TrainStepOptions {
    /// Cross entropy in f32.
    fn default() -> TrainStepOptions {
        TrainStepOptions {
            precision: Precision::default(),
            conv_algorithm: ConvAlgorithm::default(),
            loss: Arc::new(CrossEntropy::default()),
            checkpointing: false,
            seed: 0,
            cuda_graph: CudaGraphMode::default(),
            ema_after_check: false,
            sync_bn: None,
        }
    }
}

/// CUDA graph capture of training steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CudaGraphMode {
    /// Capture on a CUDA device; run eagerly if the step cannot be captured.
    #[default]
    Auto,
    /// Capture on a CUDA device; error if the step cannot be captured.
    Always,
    /// Run eagerly.
    Never,
}

/// Runs training steps and caches their CUDA graphs.
pub struct TrainStep {
    options: TrainStepOptions,
    preparation: Option<BatchPreparation>,
    device: Device,
    ema: Option<Ema>,
    data_parallel: Option<DataParallel>,
    /// Message about the first update of several ranks.
    warning: Option<String>,
    /// Steps are captured.
    capture_enabled: bool,
    captured_steps: Vec<CapturedStep>,
    /// Why steps are no longer captured.
    capture_error: Option<String>,
    /// Compilation of the kernels, which ends with the step.
    _compilation: Option<BackgroundCompilation>,
}

/// Training step for batches of given shapes.
struct CapturedStep {
    shapes: Vec<BatchShapes>,
    /// Static inputs: each batch is copied into them before the step runs.
    inputs: Vec<Batch>,
    /// Output: the mean loss, an f32 scalar.
    loss: Tensor,
    /// The CUDA graph, captured after the first eager run, which compiles kernels and plans convolutions.
    graph: Option<CudaGraph>,
}

/// Shapes of a batch: images, target, changes and global rows.
type BatchShapes = (Shape, Shape, [Option<Shape>; 2]);

/// An update that may not be finished on the device yet.
#[must_use = "its loss is read after the wait"]
pub struct PendingUpdate {
    loss: PendingRead<f32>,
    stats: Option<PendingUpdateStats>,
}

/// Result of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateResult {
    /// Mean loss.
    pub loss: f64,
    /// Statistics of the gradients, if a pass over them computed them.
    pub stats: Option<UpdateStats>,
}

impl PendingUpdate {
    /// Waits for the update and returns its result.
    pub fn wait(self) -> Result<UpdateResult> {
        let loss = f64::from(self.loss.wait()?[0]);
        Ok(UpdateResult { loss, stats: self.stats.map(PendingUpdateStats::wait).transpose()? })
    }
}

/// Maximum number of cached CUDA graphs: enough for full batches and the remainder of an epoch.
const MAX_CAPTURED_STEPS: usize = 4;

impl TrainStep {
    /// Creates a training step for a model on `device`. u8 images are mixed, normalised and erased there, by `preparation`.
    pub fn new(
        options: TrainStepOptions,
        preparation: Option<BatchPreparation>,
        device: Device,
    ) -> TrainStep {
        let capture_enabled = options.cuda_graph != CudaGraphMode::Never && device != Device::Cpu;
        let half = options.precision.half_dtype();
        TrainStep {
            options,
            preparation,
            device,
            ema: None,
            data_parallel: None,
            warning: None,
            _compilation: compile_in_background(&device, half),
            capture_enabled,
            captured_steps: vec![],
            capture_error: None,
        }
    }

    /// Adds an EMA that is updated after every update of the model.
    pub fn with_ema(self, ema: Option<Ema>) -> TrainStep {
        TrainStep { ema, ..self }
    }

    /// Averages the gradients over ranks.
    pub fn with_data_parallel(self, data_parallel: Option<DataParallel>) -> TrainStep {
        TrainStep { data_parallel, ..self }
    }

    /// A message about the updates so far, once.
    pub fn take_warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    /// The EMA, if there is one.
    pub fn ema(&self) -> Option<&Ema> {
        self.ema.as_ref()
    }

    /// The EMA, mutable: the caller sets the decay of each update.
    pub fn ema_mut(&mut self) -> Option<&mut Ema> {
        self.ema.as_mut()
    }

    /// The model's input: the images of a batch cast to the precision of `cx`, after mixing, normalisation and erasing if they are u8.
    pub fn prepare_images(&self, batch: &Batch, cx: &Context) -> fornax_engine::Result<Tensor> {
        prepare_images(Operation::Input, self.preparation.as_ref(), batch, cx)
    }

    /// Preparation of u8 images.
    pub fn preparation(&self) -> Option<&BatchPreparation> {
        self.preparation.as_ref()
    }

    /// Updates the EMA with the model's weights.
    pub fn update_ema(&self) -> Result<()> {
        let Some(ema) = &self.ema else { return Ok(()) };
        ema.update()?;
        ema.finish_update()
    }

    /// Drops the captured updates, as their low-precision copies of the weights are out of date when weights were restored.
    pub fn forget_captured(&mut self) {
        self.captured_steps.clear();
    }

    /// The options.
    pub fn options(&self) -> &TrainStepOptions {
        &self.options
    }

    /// Why steps could not be captured, after a failed attempt.
    pub fn capture_error(&self) -> Option<&str> {
        self.capture_error.as_deref()
    }

    /// Runs the forward and backward passes of a batch on the device without an update: kernels are compiled and convolutions planned.
    /// Model and optimizer stay as they are.
    pub fn warm_up(&self, model: &dyn Module, optimizer: &Optimizer, batch: &Batch) -> Result<()> {
        let buffers = buffers(model, |_| true)?;
        let passes = self.accumulate_gradients(model, optimizer, std::slice::from_ref(batch), None);
        optimizer.zero_grad();
        restore(&buffers)?;
        Ok(passes.map(drop)?)
    }

    /// Runs one update with the mean gradient over `batches` at learning rate `lr`; returns the mean loss.
    pub fn run(
        &mut self,
        model: &dyn Module,
        optimizer: &Optimizer,
        batches: &[Batch],
        lr: f64,
    ) -> Result<f64> {
        Ok(self.queue(model, optimizer, batches, lr)?.wait()?.loss)
    }

    /// Queues one update on the device, with the mean gradient over `batches` at learning rate `lr`, without waiting for it.
    pub fn queue(
        &mut self,
        model: &dyn Module,
        optimizer: &Optimizer,
        batches: &[Batch],
        lr: f64,
    ) -> Result<PendingUpdate> {
        optimizer.set_lr_and_ema_decay(lr, self.ema.as_ref().map_or(0.0, Ema::decay))?;
        if self.capture_enabled && optimizer.is_second_order() {
            let why = "the optimizer differentiates the backward pass, which cannot be captured";
            if self.options.cuda_graph == CudaGraphMode::Always {
                return Err(Error::usage("the training step cannot be captured in a CUDA graph")
                    .because(why)
                    .remedy("remove --cuda-graph, or choose another --opt"));
            }
            (self.capture_enabled, self.capture_error) = (false, Some(why.into()));
        }
        if self.capture_enabled {
            return self.queue_captured(model, optimizer, batches);
        }
        let inputs: Vec<Batch> = batches.iter().map(|b| b.to_device(&self.device)).collect::<Result<_>>()?;
        let loss = Tensor::zeros((), DType::F32, &self.device)?;
        self.compute(model, optimizer, &inputs, &loss)?;
        self.finish_update(optimizer, &loss)
    }

    /// Finishes an update on the host, and queues the reading of its results.
    fn finish_update(&mut self, optimizer: &Optimizer, loss: &Tensor) -> Result<PendingUpdate> {
        if let Some(data_parallel) = &self.data_parallel {
            self.warning = data_parallel.order_buckets()?.or(self.warning.take());
        }
        // Queued before the next update, which overwrites them.
        let computes_stats = optimizer.gradient_rule().computes_grad_norm();
        let stats = if computes_stats { Some(optimizer.stats_later()?) } else { None };
        let pending = PendingUpdate { loss: loss.read_later()?, stats };
        if let Some(ema) = self.ema.as_ref().filter(|_| !self.options.ema_after_check) {
            if ema.device() != self.device {
                ema.update()?;
            }
            ema.finish_update()?;
        }
        Ok(pending)
    }

    fn queue_captured(
        &mut self,
        model: &dyn Module,
        optimizer: &Optimizer,
        batches: &[Batch],
    ) -> Result<PendingUpdate> {
        let index = self.captured_step(batches)?;
        let step = &self.captured_steps[index];
        for (input, batch) in step.inputs.iter().zip(batches) {
            input.images.copy_from(&batch.images)?;
            input.target.copy_from(&batch.target)?;
            let optional = [(&input.changes, &batch.changes), (&input.global_rows, &batch.global_rows)];
            for (input, tensor) in optional {
                if let (Some(input), Some(tensor)) = (input, tensor) {
                    input.copy_from(tensor)?;
                }
            }
        }
        match &step.graph {
            Some(graph) => {
                graph.replay()?;
                step.inputs.iter().try_for_each(|_| increment_num_batches_tracked(model))?;
            }
            None => self.compute(model, optimizer, &step.inputs, &step.loss)?,
        }
        let (loss, is_captured) = (step.loss.clone(), step.graph.is_some());
        let pending = self.finish_update(optimizer, &loss)?;
        if !is_captured {
            self.capture(index, model, optimizer)?;
        }
        Ok(pending)
    }

    /// Index of the captured step for batches of these shapes; allocates its static inputs if it is new.
    fn captured_step(&mut self, batches: &[Batch]) -> Result<usize> {
        let shapes_of = |b: &Batch| {
            let optional = [&b.changes, &b.global_rows].map(|tensor| tensor.as_ref().map(|t| *t.shape()));
            (*b.images.shape(), *b.target.shape(), optional)
        };
        let shapes: Vec<BatchShapes> = batches.iter().map(shapes_of).collect();
        if let Some(index) = self.captured_steps.iter().position(|step| step.shapes == shapes) {
            return Ok(index);
        }
        if self.captured_steps.len() == MAX_CAPTURED_STEPS {
            self.captured_steps.remove(0);
        }
        let like = |t: &Tensor| Ok(Tensor::zeros(*t.shape(), t.dtype(), &self.device)?);
        let inputs = batches.iter().map(|b| b.map(like)).collect::<Result<_>>()?;
        let loss = Tensor::zeros((), DType::F32, &self.device)?;
        self.captured_steps.push(CapturedStep { shapes, inputs, loss, graph: None });
        Ok(self.captured_steps.len() - 1)
    }

    /// Captures a step that has run eagerly once. Capturing runs the modules' forward, so it restores `num_batches_tracked` afterwards.
    fn capture(&mut self, index: usize, model: &dyn Module, optimizer: &Optimizer) -> Result<()> {
        let counters = buffers(model, |dtype| !dtype.is_float())?;
        let CapturedStep { inputs, loss, .. } = &self.captured_steps[index];
        let region = || self.compute(model, optimizer, inputs, loss);
        let captured = CudaGraph::capture(&self.device, region);
        optimizer.zero_grad();
        restore(&counters)?;
        match captured {
            Ok(graph) => self.captured_steps[index].graph = Some(graph),
            Err(error) if self.options.cuda_graph == CudaGraphMode::Always => return Err(error.into()),
            Err(error) => {
                self.capture_enabled = false;
                self.capture_error = Some(error.to_string());
                self.captured_steps.clear();
            }
        }
        Ok(())
    }

    /// The whole step, as it is captured: forward, backward, optimizer, EMA.
    fn compute(
        &self,
        model: &dyn Module,
        optimizer: &Optimizer,
        batches: &[Batch],
        mean_loss: &Tensor,
    ) -> fornax_engine::Result<()> {
        if let Some(total) =
            self.accumulate_gradients(model, optimizer, batches, self.data_parallel.as_ref())?
        {
            mean_loss.copy_from(&total)?;
        }
        if let Some(data_parallel) = &self.data_parallel {
            data_parallel.finish(mean_loss, optimizer.hessian_diagonals())?;
        }
        match &self.ema {
            Some(ema) if ema.device() == self.device && !self.options.ema_after_check => {
                ema.step_and_update(optimizer)?
            }
            _ => optimizer.step()?,
        }
        optimizer.zero_grad();
        Ok(())
    }

    /// Forward and backward passes over the batches of an update; the mean loss. `data_parallel` starts to reduce the gradients in the last
    /// backward pass.
    fn accumulate_gradients(
        &self,
        model: &dyn Module,
        optimizer: &Optimizer,
        batches: &[Batch],
        data_parallel: Option<&DataParallel>,
    ) -> fornax_engine::Result<Option<Tensor>> {
        let options = &self.options;
        optimizer.zero_grad();
        let scale = 1.0 / batches.len() as f64;
        let mut cx = Context::train()
            .with_precision(options.precision)
            .with_conv_algorithm(options.conv_algorithm)
            .with_checkpointing(options.checkpointing)
            .with_sync_batch_norm(options.sync_bn.clone())
            .with_seed(options.seed, optimizer.updates());
        let mut total: Option<Tensor> = None;
        for (i, batch) in batches.iter().enumerate() {
            cx.set_global_rows(batch.global_rows.as_ref());
            let images = prepare_images(model.input_operation(), self.preparation.as_ref(), batch, &cx)?;
            let logits = batch.predictions(&model.forward(&images, &mut cx)?)?;
            let loss = options.loss.forward(&cx.autocast(Operation::Loss, &logits)?, &batch.target)?;
            let loss = if batches.len() > 1 { loss.mul_scalar(scale)? } else { loss };
            total = Some(match total {
                Some(total) => total.add(&loss.detach())?,
                None => loss.detach(),
            });
            if let Some(data_parallel) = data_parallel.filter(|_| i + 1 == batches.len()) {
                data_parallel.begin();
            }
            optimizer.backward(&loss)?;
        }
        Ok(total)
    }
}

/// [`TrainStep::prepare_images`] with this preparation of u8 images, which become the dtype of a model's [first
/// operation](Module::input_operation) at once.
pub(crate) fn prepare_images(
    first: Operation,
    preparation: Option<&BatchPreparation>,
    batch: &Batch,
    cx: &Context,
) -> fornax_engine::Result<Tensor> {
    match preparation {
        Some(preparation) if batch.images.dtype() == DType::U8 => {
            let dtype = cx.precision().dtype_for(first).unwrap_or(DType::F32);
            preparation.apply(&batch.images, batch.changes.as_ref(), dtype)
        }
        _ => cx.autocast(Operation::Input, &batch.images),
    }
}

/// The modules' buffers of some dtypes, each with a copy of its value: running statistics, or only `num_batches_tracked`.
fn buffers(model: &dyn Module, is_wanted: impl Fn(DType) -> bool) -> Result<Vec<(Tensor, Tensor)>> {
    let buffers = state_entries(model)
        .into_iter()
        .filter(|e| e.kind == StateKind::Buffer && is_wanted(e.tensor.dtype()));
    let copied = buffers.map(|e| e.tensor.copy().map(|copy| (e.tensor, copy)));
    Ok(copied.collect::<fornax_engine::Result<_>>()?)
}

/// Gives buffers their copied values.
fn restore(buffers: &[(Tensor, Tensor)]) -> fornax_engine::Result<()> {
    buffers.iter().try_for_each(|(buffer, value)| buffer.copy_from(value))
}
