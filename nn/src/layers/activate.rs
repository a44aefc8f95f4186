//! Activation layer.
use crate::capture::LayerInfo;
use crate::{Context, Module, Visitor};
use fornax_engine::{Activation, Result, Tensor};

/// Activation function. Where it is fused into the preceding operation, the layer only labels the output.
pub struct Activate {
    kind: Activation,
    info: LayerInfo,
}

impl Activate {
    /// Layer with this activation.
    pub const fn new(kind: Activation) -> Activate {
        Activate { kind, info: LayerInfo::new("Activation") }
    }

    /// The activation function.
    pub fn kind(&self) -> Activation {
        self.kind
    }

    /// Passes on the output `y` of an operation with the activation fused into it.
    pub fn capture_fused(&self, y: Tensor, cx: &mut Context) -> Tensor {
        cx.capture(&self.info, y, 0)
    }
}

impl Module for Activate {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let y = x.activate(self.kind)?;
        Ok(self.capture_fused(y, cx))
    }

    fn visit(&self, _: &mut Visitor) {}

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}
