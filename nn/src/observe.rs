//! Watching a forward pass: what each named layer hands on.
use fornax_engine::Tensor;
use std::sync::OnceLock;

/// What a layer is called in its model. The first visit of the model fills in the name.
#[derive(Debug)]
pub struct Label {
    kind: &'static str,
    name: OnceLock<String>,
}

impl Label {
    /// Of a layer of this kind.
    pub const fn new(kind: &'static str) -> Label {
        Label { kind, name: OnceLock::new() }
    }

    /// Of a module that consists of others.
    pub const fn group() -> Label {
        Label::new("")
    }

    /// The dotted name; none before the first visit.
    pub fn name(&self) -> Option<&str> {
        self.name.get().map(String::as_str)
    }

    /// The layer's kind; empty for a module that consists of others.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    pub(crate) fn set(&self, name: &str) {
        self.name.get_or_init(|| name.into());
    }
}

/// What a layer handed on.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The layer's dotted name.
    pub name: String,
    /// Its kind; empty for a module that consists of others.
    pub kind: &'static str,
    /// Its output.
    pub output: Tensor,
    /// Multiplications followed by an addition that the layer takes.
    pub macs: u64,
}

/// Collects observations in a [`crate::Context`].
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    /// `None` for all.
    pub wanted: Option<Vec<String>>,
    pub seen: Vec<Observation>,
}

impl Observer {
    pub fn wants(&self, label: &Label) -> bool {
        match (&self.wanted, label.name()) {
            (None, Some(_)) => true,
            (Some(wanted), Some(name)) => wanted.iter().any(|w| w == name),
            (_, None) => false,
        }
    }
}
