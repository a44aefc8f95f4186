//! Context of a forward pass: training mode, precision, random numbers, activation checkpointing, output capture.
use crate::capture::{CapturedOutput, LayerInfo, OutputCapture};
use crate::precision::{Operation, Precision};
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{Collective, ConvAlgorithm, Error, MaskRng, Result, Tensor};
use std::sync::Arc;

/// Context of a forward pass, passed to every [`crate::Module::forward`]. Modules have no train/eval mode.
#[derive(Clone, Debug)]
pub struct Context {
    training: bool,
    precision: Precision,
    conv_algorithm: ConvAlgorithm,
    checkpointing: bool,
    recomputing: bool,
    rng: Option<RngState>,
    capture: Option<OutputCapture>,
    sync_group: Option<Arc<dyn Collective>>,
}

/// State of the random number generator. Each use in a pass has an index, and each step its own samples under that index.
#[derive(Clone, Debug)]
struct RngState {
    key: RngKey,
    /// i64 scalar.
    step: Tensor,
    /// Row of each image of the batch in the batch of all ranks, i64.
    rows: Option<Tensor>,
    /// Index of the checkpointed block, starting at 1; 0 outside of checkpointed blocks.
    checkpoint_block: u32,
    checkpoint_blocks: u32,
    uses: u64,
}

/// log2 of the number of steps for which each use has distinct samples.
const LOG2_STEPS: u32 = 40;

impl Context {
    /// Context for training, as `model.train()`: batch norm uses batch statistics and updates its running statistics.
    pub fn train() -> Context {
        Context { training: true, ..Context::eval() }
    }

    /// Context for evaluation, as `model.eval()`: batch norm uses its running statistics, and no module changes state.
    pub fn eval() -> Context {
        Context {
            training: false,
            precision: Precision::default(),
            conv_algorithm: ConvAlgorithm::default(),
            checkpointing: false,
            recomputing: false,
            rng: None,
            capture: None,
            sync_group: None,
        }
    }

    /// Sets the precision; the default is f32.
    pub fn with_precision(self, precision: Precision) -> Context {
        Context { precision, ..self }
    }

    /// Sets the algorithm of convolutions on the CPU; the default is [`ConvAlgorithm::Auto`].
    pub fn with_conv_algorithm(self, conv_algorithm: ConvAlgorithm) -> Context {
        Context { conv_algorithm, ..self }
    }

    /// Enables activation checkpointing: the backward pass recomputes the modules of each [`crate::layers::Sequential`], one by one, instead
    /// of keeping their intermediate tensors.
    pub fn with_checkpointing(self, checkpointing: bool) -> Context {
        Context { checkpointing, ..self }
    }

    /// Synchronises batch norm: in training it uses the statistics of all ranks of a group, as PyTorch's `SyncBatchNorm`.
    pub fn with_sync_batch_norm(self, sync_group: Option<Arc<dyn Collective>>) -> Context {
        Context { sync_group, ..self }
    }

    /// Seeds the random numbers of dropout, stochastic depth and DropBlock. They depend on the seed and on `step`, an i64 scalar on the device of the
    /// model, which is read there.
    pub fn with_seed(self, seed: u64, step: &Tensor) -> Context {
        let key = RngKey::new(seed, "regularisers");
        Context {
            rng: Some(RngState {
                key,
                step: step.clone(),
                rows: None,
                checkpoint_block: 0,
                checkpoint_blocks: 0,
                uses: 0,
            }),
            ..self
        }
    }

    /// Sets the row of each image of the next forward passes in the batch of all ranks, i64 `[images]`: random masks are these rows of the
    /// masks of the whole batch. `None`, the default: the images are the whole batch.
    pub fn set_global_rows(&mut self, rows: Option<&Tensor>) {
        if let Some(rng) = &mut self.rng {
            rng.rows = rows.cloned();
        }
    }

    /// Captures the outputs of the layers with these dotted names, or of all layers for `None`; see [`Context::take_captured`]. Disables
    /// activation checkpointing, because outputs of checkpointed blocks are not captured.
    pub fn with_output_capture(self, names: Option<&[&str]>) -> Context {
        let wanted = names.map(|names| names.iter().map(|name| name.to_string()).collect());
        Context { checkpointing: false, capture: Some(OutputCapture { wanted, outputs: vec![] }), ..self }
    }

    /// Takes the outputs captured since the last call, in execution order.
    pub fn take_captured(&mut self) -> Vec<CapturedOutput> {
        self.capture.as_mut().map(|capture| std::mem::take(&mut capture.outputs)).unwrap_or_default()
    }

    /// This context with the capture and checkpointing settings of `before`.
    pub(crate) fn restore_capture(self, before: &Context) -> Context {
        Context { checkpointing: before.checkpointing, capture: before.capture.clone(), ..self }
    }

    /// True if the layer's output is captured, so that it must not be fused away.
    pub(crate) fn captures(&self, info: &LayerInfo) -> bool {
        self.capture.as_ref().is_some_and(|capture| capture.matches(info))
    }

    /// Captures a layer's output if requested, and returns it.
    pub(crate) fn capture(&mut self, info: &LayerInfo, output: Tensor, macs: usize) -> Tensor {
        if let Some(capture) = self.capture.as_mut().filter(|capture| capture.matches(info)) {
            let (name, kind) = (info.name().unwrap_or_default().into(), info.kind());
            capture.outputs.push(CapturedOutput { name, kind, output: output.clone(), macs: macs as u64 });
        }
        output
    }

    /// Random numbers of the next mask in this pass.
    ///
    /// # Errors
    /// If the context has no seed.
    pub fn next_rng(&mut self) -> Result<MaskRng> {
        let why = "a layer with random numbers needs a context with a seed; see Context::with_seed";
        let rng = self.rng.as_mut().ok_or_else(|| Error::value("next_rng", &[], why))?;
        rng.uses += 1;
        Ok(MaskRng {
            stream: RngStream::new(rng.key, rng.checkpoint_block, rng.uses << LOG2_STEPS),
            step: Some(rng.step.clone()),
            rows: rng.rows.clone(),
        })
    }

    /// True for a training pass.
    pub fn training(&self) -> bool {
        self.training
    }

    /// True for a training pass that is not a recomputation for the backward pass.
    pub fn updates_statistics(&self) -> bool {
        self.training && !self.recomputing
    }

    /// The ranks whose statistics batch norm uses in this pass, if they are synchronised.
    pub(crate) fn sync_group(&self) -> Option<&Arc<dyn Collective>> {
        self.sync_group.as_ref().filter(|_| self.training)
    }

    /// Precision of the pass.
    pub fn precision(&self) -> &Precision {
        &self.precision
    }

    /// Algorithm of convolutions on the CPU.
    pub fn conv_algorithm(&self) -> ConvAlgorithm {
        self.conv_algorithm
    }

    /// Casts an operand to the dtype in which the operation computes, as PyTorch's autocast does.
    pub fn autocast(&self, operation: Operation, x: &Tensor) -> Result<Tensor> {
        match self.precision.dtype_for(operation) {
            Some(dtype) => x.to_dtype(dtype),
            None => Ok(x.clone()),
        }
    }

    /// True if activation checkpointing is active in this pass.
    pub(crate) fn checkpointing(&self) -> bool {
        self.checkpointing && self.training
    }

    /// Context of the next checkpointed block.
    pub(crate) fn next_checkpoint(&mut self) -> Context {
        if let Some(rng) = &mut self.rng {
            rng.checkpoint_blocks += 1;
        }
        let rng = self.rng.clone().map(|d| RngState { checkpoint_block: d.checkpoint_blocks, uses: 0, ..d });
        Context { checkpointing: false, rng, ..self.clone() }
    }

    /// Marks the pass as a recomputation if `again` is set.
    pub(crate) fn recomputing(self, again: bool) -> Context {
        Context { recomputing: self.recomputing || again, ..self }
    }
}
