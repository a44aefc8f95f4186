//! Modules one after the other.
use crate::{Context, Module, Visitor};
use fornax_engine::{Activation, Result, Tensor};

/// Runs its modules in order; they are named by their position.
#[derive(Default)]
pub struct Sequential(pub Vec<Box<dyn Module>>);

impl Module for Sequential {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        self.0.iter().try_fold(x.clone(), |x, module| module.forward(&x, cx))
    }

    fn visit(&self, visitor: &mut Visitor) {
        for (i, module) in self.0.iter().enumerate() {
            visitor.child(&i.to_string(), module.as_ref());
        }
    }
}

/// An activation as a module.
pub struct Activate(pub Activation);

impl Module for Activate {
    fn forward(&self, x: &Tensor, _: &mut Context) -> Result<Tensor> {
        x.activate(self.0)
    }
    fn visit(&self, _: &mut Visitor) {}
}
