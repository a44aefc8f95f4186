//! Modules one after the other.
use crate::{Context, Module, Visitor, named_parameters};
use fornax_engine::{Activation, Result, Tensor, checkpoint};
use std::sync::Arc;

/// Runs its modules in order; they are named by their position. They are the blocks of activation checkpointing.
#[derive(Default)]
pub struct Sequential(pub Vec<Arc<dyn Module>>);

impl Module for Sequential {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        if !cx.checkpointing() {
            return self.0.iter().try_fold(x.clone(), |x, module| module.forward(&x, cx));
        }
        self.0.iter().try_fold(x.clone(), |x, module| {
            let parameters: Vec<Tensor> = named_parameters(&**module).into_iter().map(|(_, t)| t).collect();
            let (module, cx) = (module.clone(), cx.next_checkpoint());
            checkpoint(&x, &parameters, move |x, again| module.forward(x, &mut cx.clone().recomputing(again)))
        })
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
