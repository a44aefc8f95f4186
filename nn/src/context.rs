//! What a forward pass depends on beside its input.
use crate::precision::{Operation, Precision};
use fornax_engine::{Result, Tensor};

/// Handed down through every [`crate::Module::forward`]; no module holds a mode of its own.
#[derive(Clone, Debug)]
pub struct Context {
    training: bool,
    precision: Precision,
    checkpointing: bool,
    recomputing: bool,
}

impl Context {
    /// For training: batch statistics are used and running ones updated.
    pub fn train() -> Context {
        Context { training: true, ..Context::eval() }
    }

    /// For evaluation: running statistics are used and nothing changes.
    pub fn eval() -> Context {
        Context { training: false, precision: Precision::default(), checkpointing: false, recomputing: false }
    }

    /// In a precision other than f32.
    pub fn with_precision(self, precision: Precision) -> Context {
        Context { precision, ..self }
    }

    /// With what [`crate::layers::Sequential`] holds computed again in the backward pass, block by block, rather than kept for it.
    pub fn with_checkpointing(self, checkpointing: bool) -> Context {
        Context { checkpointing, ..self }
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
    pub fn operand(&self, operation: Operation, x: &Tensor) -> Result<Tensor> {
        match self.precision.of(operation) {
            Some(dtype) => x.to_dtype(dtype),
            None => Ok(x.clone()),
        }
    }

    /// A parameter of an operation, in the dtype that the operation computes in.
    pub fn parameter(&self, operation: Operation, parameter: &Tensor) -> Result<Tensor> {
        match self.precision.of(operation) {
            Some(dtype) => parameter.working_copy(dtype),
            None => Ok(parameter.clone()),
        }
    }

    /// True when blocks are to be computed again in the backward pass.
    pub(crate) fn checkpointing(&self) -> bool {
        self.checkpointing && self.training
    }

    /// The context of one block that is, or was, checkpointed.
    pub(crate) fn within_checkpoint(&self, recomputing: bool) -> Context {
        Context { checkpointing: false, recomputing: self.recomputing || recomputing, ..self.clone() }
    }
}
