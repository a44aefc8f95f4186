//! Capture of layer outputs in a forward pass, as with PyTorch's forward hooks.
use fornax_engine::Tensor;
use std::sync::OnceLock;

/// Name and type of a layer. The first visit of the model sets the name.
#[derive(Debug)]
pub struct LayerInfo {
    kind: &'static str,
    name: OnceLock<String>,
}

impl LayerInfo {
    /// Info of a layer of this type.
    pub const fn new(kind: &'static str) -> LayerInfo {
        LayerInfo { kind, name: OnceLock::new() }
    }

    /// Info of a container of other modules.
    pub const fn container() -> LayerInfo {
        LayerInfo::new("")
    }

    /// Dotted name; `None` before the first visit.
    pub fn name(&self) -> Option<&str> {
        self.name.get().map(String::as_str)
    }

    /// Layer type; empty for containers.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    pub(crate) fn set(&self, name: &str) {
        self.name.get_or_init(|| name.into());
    }
}

/// Captured output of a layer.
#[derive(Clone, Debug)]
pub struct CapturedOutput {
    /// Dotted name of the layer.
    pub name: String,
    /// Type of the layer; empty for containers.
    pub kind: &'static str,
    /// The output.
    pub output: Tensor,
    /// Multiply-accumulate operations of the layer.
    pub macs: u64,
}

/// Captured outputs of a [`crate::Context`].
#[derive(Clone, Debug)]
pub(crate) struct OutputCapture {
    /// Names of the layers to capture; `None` for all layers.
    pub wanted: Option<Vec<String>>,
    pub outputs: Vec<CapturedOutput>,
}

impl OutputCapture {
    pub fn matches(&self, info: &LayerInfo) -> bool {
        match (&self.wanted, info.name()) {
            (None, Some(_)) => true,
            (Some(wanted), Some(name)) => wanted.iter().any(|w| w == name),
            (_, None) => false,
        }
    }
}
