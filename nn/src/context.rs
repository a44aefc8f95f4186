//! Context of a forward pass: training mode, precision, random numbers, activation checkpointing, output capture.
use crate::capture::{Label, Observation, Observer};
use crate::precision::{Operation, Precision};
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{Error, Result, Tensor};

/// Context of a forward pass, passed to every [`crate::Module::forward`]. Modules have no train/eval mode.
#[derive(Clone, Debug)]
pub struct Context {
    training: bool,
    precision: Precision,
    checkpointing: bool,
    recomputing: bool,
    draws: Option<Draws>,
    observer: Option<Observer>,
}

/// State of the random number generator. Each use in a pass has an index, and each step its own samples under that index.
#[derive(Clone, Debug)]
struct Draws {
    key: RngKey,
    /// i64 scalar.
    step: Tensor,
    /// Index of the checkpointed block, starting at 1; 0 outside of checkpointed blocks.
    region: u32,
    regions: u32,
    used: u64,
}

/// log2 of the number of steps for which each use has distinct samples.
const STEPS: u32 = 40;

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
            checkpointing: false,
            recomputing: false,
            draws: None,
            observer: None,
        }
    }

    /// Sets the precision; the default is f32.
    pub fn with_precision(self, precision: Precision) -> Context {
        Context { precision, ..self }
    }

    /// Enables activation checkpointing: the backward pass recomputes the modules of each [`crate::layers::Sequential`], one by one, instead
    /// of keeping their intermediate tensors.
    pub fn with_checkpointing(self, checkpointing: bool) -> Context {
        Context { checkpointing, ..self }
    }

    /// Seeds the random numbers of dropout and stochastic depth. They depend on the seed and on `step`, an i64 scalar on the device of the
    /// model, which is read there.
    pub fn with_seed(self, seed: u64, step: &Tensor) -> Context {
        let key = RngKey::new(seed, "regularisers");
        Context { draws: Some(Draws { key, step: step.clone(), region: 0, regions: 0, used: 0 }), ..self }
    }

    /// Captures the outputs of the layers with these dotted names, or of all layers for `None`; see [`Context::take_captured`]. Disables
    /// activation checkpointing, because outputs of checkpointed blocks are not captured.
    pub fn observing(self, names: Option<&[&str]>) -> Context {
        let wanted = names.map(|names| names.iter().map(|name| name.to_string()).collect());
        Context { checkpointing: false, observer: Some(Observer { wanted, seen: vec![] }), ..self }
    }

    /// Takes the outputs captured since the last call, in execution order.
    pub fn observations(&mut self) -> Vec<Observation> {
        self.observer.as_mut().map(|observer| std::mem::take(&mut observer.seen)).unwrap_or_default()
    }

    /// This context with the capture and checkpointing settings of `before`.
    pub(crate) fn ending_observation(self, before: &Context) -> Context {
        Context { checkpointing: before.checkpointing, observer: before.observer.clone(), ..self }
    }

    /// True if the layer's output is captured, so that it must not be fused away.
    pub(crate) fn observes(&self, label: &Label) -> bool {
        self.observer.as_ref().is_some_and(|observer| observer.wants(label))
    }

    /// Captures a layer's output if requested, and returns it.
    pub(crate) fn observed(&mut self, label: &Label, output: Tensor, macs: usize) -> Tensor {
        if let Some(observer) = self.observer.as_mut().filter(|observer| observer.wants(label)) {
            let (name, kind) = (label.name().unwrap_or_default().into(), label.kind());
            observer.seen.push(Observation { name, kind, output: output.clone(), macs: macs as u64 });
        }
        output
    }

    /// Random stream of the next use in this pass, and the step to add to its sample index.
    ///
    /// # Errors
    /// If the context has no seed.
    pub fn draw(&mut self) -> Result<(RngStream, Tensor)> {
        let draws = self.draws.as_mut().ok_or_else(|| Error::Autograd {
            why: "a layer with random numbers needs a context with a seed; see Context::with_seed".into(),
        })?;
        draws.used += 1;
        Ok((RngStream::new(draws.key, draws.region, draws.used << STEPS), draws.step.clone()))
    }

    /// True for a training pass.
    pub fn training(&self) -> bool {
        self.training
    }

    /// True for a training pass that is not a recomputation for the backward pass.
    pub fn updates_statistics(&self) -> bool {
        self.training && !self.recomputing
    }

    /// Precision of the pass.
    pub fn precision(&self) -> &Precision {
        &self.precision
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
        if let Some(draws) = &mut self.draws {
            draws.regions += 1;
        }
        let draws = self.draws.clone().map(|d| Draws { region: d.regions, used: 0, ..d });
        Context { checkpointing: false, draws, ..self.clone() }
    }

    /// Marks the pass as a recomputation if `again` is set.
    pub(crate) fn recomputing(self, again: bool) -> Context {
        Context { recomputing: self.recomputing || again, ..self }
    }
}
