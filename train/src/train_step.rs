//! One update of a run: forward and backward passes over its batches, and the optimizer. On a CUDA device all of it is recorded as a
//! graph for the shapes it has, and replayed: one call in place of hundreds of launches.
use crate::Result;
use crate::data::{Batch, Statistics};
use crate::ema::Ema;
use crate::optim::Optimizer;
use fornax_engine::cuda::CudaGraph;
use fornax_engine::{DType, Device, Shape, Tensor};
use fornax_nn::loss::{CrossEntropy, Loss};
use fornax_nn::precision::Operation;
use fornax_nn::{Context, Module, Precision, StateKind, increment_num_batches_tracked, state_entries};
use std::sync::Arc;

/// How an update computes.
#[derive(Clone, Debug)]
pub struct TrainStepOptions {
    /// Which operation computes in which precision.
    pub precision: Precision,
    /// What it makes small.
    pub loss: Arc<dyn Loss>,
    /// Compute blocks again in the backward pass, rather than keep what it needs.
    pub checkpointing: bool,
    /// Seed of what layers draw.
    pub seed: u64,
    /// Whether to record and replay.
    pub cuda_graph: CudaGraphMode,
}

impl Default for TrainStepOptions {
    /// Cross entropy, in f32.
    fn default() -> TrainStepOptions {
        TrainStepOptions {
            precision: Precision::default(),
            loss: Arc::new(CrossEntropy::default()),
            checkpointing: false,
            seed: 0,
            cuda_graph: CudaGraphMode::default(),
        }
    }
}

/// Whether an update is recorded as a CUDA graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CudaGraphMode {
    /// On a CUDA device, unless something in the update cannot be recorded.
    #[default]
    WherePossible,
    /// Or it is an error.
    Always,
    /// Never.
    Never,
}

/// Runs updates, and keeps their recordings.
pub struct TrainStep {
    options: TrainStepOptions,
    statistics: Option<Statistics>,
    device: Device,
    ema: Option<Ema>,
    /// Updates are recorded.
    records: bool,
    recordings: Vec<Recording>,
    /// Why they are not any longer.
    unrecordable: Option<String>,
}

/// An update of batches of given shapes.
struct Recording {
    shapes: Vec<Shape>,
    /// Where each batch is put before it runs.
    places: Vec<Batch>,
    /// Where the loss is left, f32, a scalar.
    loss: Tensor,
    /// Once it has run; before, its kernels may have to be compiled and its convolutions to be planned.
    graph: Option<CudaGraph>,
}

/// Recordings that are kept: those of full batches, and of what is left at the end of an epoch.
const RECORDINGS: usize = 4;

impl TrainStep {
    /// For a model on a device. Images of bytes are normalised there by the statistics.
    pub fn new(options: TrainStepOptions, statistics: Option<Statistics>, device: Device) -> TrainStep {
        let records = options.cuda_graph != CudaGraphMode::Never && device != Device::Cpu;
        TrainStep { options, statistics, device, ema: None, records, recordings: vec![], unrecordable: None }
    }

    /// With an average that follows the model after every update.
    pub fn averaging(self, ema: Option<Ema>) -> TrainStep {
        TrainStep { ema, ..self }
    }

    /// The average, if there is one.
    pub fn ema(&self) -> Option<&Ema> {
        self.ema.as_ref()
    }

    /// The same, for the caller to set the decay of each update.
    pub fn ema_mut(&mut self) -> Option<&mut Ema> {
        self.ema.as_mut()
    }

    /// Images as a model takes them: normalised, if they are bytes, and in the context's precision.
    pub fn pixels(&self, images: &Tensor, cx: &Context) -> fornax_engine::Result<Tensor> {
        match &self.statistics {
            Some(statistics) if images.dtype() == DType::U8 => {
                statistics.normalise(images, cx.precision().dtype_for(Operation::Input).unwrap_or(DType::F32))
            }
            _ => cx.autocast(Operation::Input, images),
        }
    }

    /// How it computes.
    pub fn options(&self) -> &TrainStepOptions {
        &self.options
    }

    /// Why updates could not be recorded, where that was tried in vain.
    pub fn unrecordable(&self) -> Option<&str> {
        self.unrecordable.as_deref()
    }

    /// One update from the mean gradient over `batches`, at a learning rate; the mean loss.
    pub fn run(
        &mut self,
        model: &dyn Module,
        optimizer: &Optimizer,
        batches: &[Batch],
        lr: f64,
    ) -> Result<f64> {
        optimizer.set_lr(lr)?;
        if self.records && optimizer.needs_graph() {
            let why = "the optimizer differentiates the backward pass, which is not recorded";
            if self.options.cuda_graph == CudaGraphMode::Always {
                return Err(fornax_engine::Error::Autograd { why: why.into() }.into());
            }
            (self.records, self.unrecordable) = (false, Some(why.into()));
        }
        let loss = if self.records {
            self.run_recorded(model, optimizer, batches)?
        } else {
            let here: Vec<Batch> =
                batches.iter().map(|b| b.to_device(&self.device)).collect::<Result<_>>()?;
            let loss = Tensor::zeros((), DType::F32, &self.device)?;
            self.compute(model, optimizer, &here, &loss)?;
            self.finish()?;
            loss.item()?
        };
        Ok(loss)
    }

    /// What an update leaves to the host.
    fn finish(&self) -> Result<()> {
        let Some(ema) = &self.ema else { return Ok(()) };
        if ema.device() != self.device {
            ema.update()?;
        }
        ema.finish_update()
    }

    fn run_recorded(&mut self, model: &dyn Module, optimizer: &Optimizer, batches: &[Batch]) -> Result<f64> {
        let index = self.recording(batches)?;
        let recording = &self.recordings[index];
        for (place, batch) in recording.places.iter().zip(batches) {
            place.images.copy_from(&batch.images)?;
            place.target.copy_from(&batch.target)?;
        }
        match &recording.graph {
            Some(graph) => {
                graph.replay()?;
                recording.places.iter().try_for_each(|_| increment_num_batches_tracked(model))?;
            }
            None => self.compute(model, optimizer, &recording.places, &recording.loss)?,
        }
        self.finish()?;
        let loss = recording.loss.item()?;
        if recording.graph.is_none() {
            self.record(index, model, optimizer)?;
        }
        Ok(loss)
    }

    /// The recording for batches of these shapes, with room for them.
    fn recording(&mut self, batches: &[Batch]) -> Result<usize> {
        let shapes: Vec<Shape> = batches.iter().map(|b| *b.images.shape()).collect();
        if let Some(index) = self.recordings.iter().position(|r| r.shapes == shapes) {
            return Ok(index);
        }
        if self.recordings.len() == RECORDINGS {
            self.recordings.remove(0);
        }
        let places = batches.iter().map(|b| b.to_device(&self.device)).collect::<Result<_>>()?;
        let loss = Tensor::zeros((), DType::F32, &self.device)?;
        self.recordings.push(Recording { shapes, places, loss, graph: None });
        Ok(self.recordings.len() - 1)
    }

    /// Records an update that has run once. Recording passes through the modules, which then count a batch that nobody trained on.
    fn record(&mut self, index: usize, model: &dyn Module, optimizer: &Optimizer) -> Result<()> {
        let counters = counters(model)?;
        let Recording { places, loss, .. } = &self.recordings[index];
        let region = || self.compute(model, optimizer, places, loss);
        let recorded = CudaGraph::capture(&self.device, region);
        optimizer.zero_grad();
        counters.iter().try_for_each(|(counter, count)| counter.copy_from(count))?;
        match recorded {
            Ok(graph) => self.recordings[index].graph = Some(graph),
            Err(error) if self.options.cuda_graph == CudaGraphMode::Always => return Err(error.into()),
            Err(error) => {
                self.records = false;
                self.unrecordable = Some(error.to_string());
                self.recordings.clear();
            }
        }
        Ok(())
    }

    /// The whole update: what is recorded.
    fn compute(
        &self,
        model: &dyn Module,
        optimizer: &Optimizer,
        batches: &[Batch],
        mean_loss: &Tensor,
    ) -> fornax_engine::Result<()> {
        let options = &self.options;
        optimizer.zero_grad();
        let share = 1.0 / batches.len() as f64;
        let mut cx = Context::train()
            .with_precision(options.precision)
            .with_checkpointing(options.checkpointing)
            .with_seed(options.seed, optimizer.updates());
        let mut total: Option<Tensor> = None;
        for batch in batches {
            let images = self.pixels(&batch.images, &cx)?;
            let logits = model.forward(&images, &mut cx)?;
            let loss = options.loss.forward(&cx.autocast(Operation::Loss, &logits)?, &batch.target)?;
            let loss = if batches.len() > 1 { loss.mul_scalar(share)? } else { loss };
            total = Some(match total {
                Some(total) => total.add(&loss.detach())?,
                None => loss.detach(),
            });
            optimizer.backward(&loss)?;
        }
        if let Some(total) = total {
            mean_loss.copy_from(&total)?;
        }
        optimizer.step()?;
        optimizer.zero_grad();
        match &self.ema {
            Some(ema) if ema.device() == self.device => ema.update(),
            _ => Ok(()),
        }
    }
}

/// The modules' counters, each with a copy of its value.
fn counters(model: &dyn Module) -> Result<Vec<(Tensor, Tensor)>> {
    let buffers = state_entries(model)
        .into_iter()
        .filter(|e| e.kind == StateKind::Buffer && !e.tensor.dtype().is_float());
    let copied = buffers.map(|e| e.tensor.copy().map(|copy| (e.tensor, copy)));
    Ok(copied.collect::<fornax_engine::Result<_>>()?)
}
