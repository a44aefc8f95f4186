//! An activation as a layer.
use crate::observe::Label;
use crate::{Context, Module, Visitor};
use fornax_engine::{Activation, Result, Tensor};

/// Applies an activation. Where it is fused into the operation before it, it only gives its name to what comes out.
pub struct Activate {
    kind: Activation,
    label: Label,
}

impl Activate {
    /// A layer of this activation.
    pub const fn new(kind: Activation) -> Activate {
        Activate { kind, label: Label::new("Activation") }
    }

    /// Which activation it is.
    pub fn kind(&self) -> Activation {
        self.kind
    }

    /// What an operation that has the activation fused into it gave.
    pub fn fused(&self, y: Tensor, cx: &mut Context) -> Tensor {
        cx.observed(&self.label, y, 0)
    }
}

impl Module for Activate {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let y = x.activate(self.kind)?;
        Ok(self.fused(y, cx))
    }

    fn visit(&self, _: &mut Visitor) {}

    fn label(&self) -> Option<&Label> {
        Some(&self.label)
    }
}
