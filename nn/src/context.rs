//! What a forward pass depends on beside its input.

/// Handed down through every [`crate::Module::forward`]; no module holds a mode of its own.
#[derive(Clone, Debug)]
pub struct Context {
    training: bool,
}

impl Context {
    /// For training: batch statistics are used and running ones updated.
    pub fn train() -> Context {
        Context { training: true }
    }

    /// For evaluation: running statistics are used and nothing changes.
    pub fn eval() -> Context {
        Context { training: false }
    }

    /// True in a training pass.
    pub fn training(&self) -> bool {
        self.training
    }
}
