//! What a forward pass depends on beside its input.
use crate::observe::{Label, Observation, Observer};
use crate::precision::{Operation, Precision};
use fornax_engine::random::{RngKey, RngStream};
use fornax_engine::{Error, Result, Tensor};

/// Handed down through every [`crate::Module::forward`]; no module holds a mode of its own.
#[derive(Clone, Debug)]
pub struct Context {
    training: bool,
    precision: Precision,
    checkpointing: bool,
    recomputing: bool,
    draws: Option<Draws>,
    observer: Option<Observer>,
}

/// Where random draws come from: each use has a number, and each step its own draws under it.
#[derive(Clone, Debug)]
struct Draws {
    key: RngKey,
    /// i64 scalar.
    step: Tensor,
    /// 0 outside of checkpointed blocks; these are numbered.
    region: u32,
    regions: u32,
    used: u64,
}

/// Steps that a use has draws for.
const STEPS: u32 = 40;

impl Context {
    /// For training: batch statistics are used and running ones updated.
    pub fn train() -> Context {
        Context { training: true, ..Context::eval() }
    }

    /// For evaluation: running statistics are used and nothing changes.
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

    /// In a precision other than f32.
    pub fn with_precision(self, precision: Precision) -> Context {
        Context { precision, ..self }
    }

    /// With what [`crate::layers::Sequential`] holds computed again in the backward pass, block by block, rather than kept for it.
    pub fn with_checkpointing(self, checkpointing: bool) -> Context {
        Context { checkpointing, ..self }
    }

    /// With random draws under a seed, other ones at each `step`: an i64 scalar on the device that computes, where it is read.
    pub fn with_seed(self, seed: u64, step: &Tensor) -> Context {
        let key = RngKey::new(seed, "regularisers");
        Context { draws: Some(Draws { key, step: step.clone(), region: 0, regions: 0, used: 0 }), ..self }
    }

    /// With what the layers of these dotted names hand on kept, to be taken by [`Context::observations`]; `None` keeps that of all layers.
    /// What is checkpointed is not observed, so nothing is.
    pub fn observing(self, names: Option<&[&str]>) -> Context {
        let wanted = names.map(|names| names.iter().map(|name| name.to_string()).collect());
        Context { checkpointing: false, observer: Some(Observer { wanted, seen: vec![] }), ..self }
    }

    /// What layers handed on since the last call, in the order in which they did.
    pub fn observations(&mut self) -> Vec<Observation> {
        self.observer.as_mut().map(|observer| std::mem::take(&mut observer.seen)).unwrap_or_default()
    }

    /// This context after a pass that was observed, with what `before` observes and checkpoints.
    pub(crate) fn ending_observation(self, before: &Context) -> Context {
        Context { checkpointing: before.checkpointing, observer: before.observer.clone(), ..self }
    }

    /// True when a layer's output is to be seen: it cannot be fused away.
    pub(crate) fn observes(&self, label: &Label) -> bool {
        self.observer.as_ref().is_some_and(|observer| observer.wants(label))
    }

    /// A layer's output, which is on its way to the next.
    pub(crate) fn observed(&mut self, label: &Label, output: Tensor, macs: usize) -> Tensor {
        if let Some(observer) = self.observer.as_mut().filter(|observer| observer.wants(label)) {
            let (name, kind) = (label.name().unwrap_or_default().into(), label.kind());
            observer.seen.push(Observation { name, kind, output: output.clone(), macs: macs as u64 });
        }
        output
    }

    /// The draws of one use in this pass: a stream, and the step to add to its sample.
    pub fn draw(&mut self) -> Result<(RngStream, Tensor)> {
        let draws = self.draws.as_mut().ok_or_else(|| Error::Autograd {
            why: "a layer that draws at random needs a context with a seed: see Context::with_draws".into(),
        })?;
        draws.used += 1;
        Ok((RngStream::new(draws.key, draws.region, draws.used << STEPS), draws.step.clone()))
    }

    /// True in a training pass.
    pub fn training(&self) -> bool {
        self.training
    }

    /// True in a training pass that is not the repetition of one.
    pub fn updates_statistics(&self) -> bool {
        self.training && !self.recomputing
    }

    /// The precision.
    pub fn precision(&self) -> &Precision {
        &self.precision
    }

    /// An operand of an operation, in the dtype that the operation computes in.
    pub fn autocast(&self, operation: Operation, x: &Tensor) -> Result<Tensor> {
        match self.precision.dtype_for(operation) {
            Some(dtype) => x.to_dtype(dtype),
            None => Ok(x.clone()),
        }
    }

    /// True when blocks are to be computed again in the backward pass.
    pub(crate) fn checkpointing(&self) -> bool {
        self.checkpointing && self.training
    }

    /// The context of the next checkpointed block.
    pub(crate) fn next_checkpoint(&mut self) -> Context {
        if let Some(draws) = &mut self.draws {
            draws.regions += 1;
        }
        let draws = self.draws.clone().map(|d| Draws { region: d.regions, used: 0, ..d });
        Context { checkpointing: false, draws, ..self.clone() }
    }

    /// The same for a block's repetition in the backward pass.
    pub(crate) fn recomputing(self, again: bool) -> Context {
        Context { recomputing: self.recomputing || again, ..self }
    }
}
