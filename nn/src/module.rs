//! Modules: forward passes with named parameters and buffers.
use crate::Context;
use crate::observe::Label;
use fornax_engine::{Device, Result, Tensor};

/// A layer or a model.
pub trait Module: Send + Sync {
    /// The output for an input.
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor>;

    /// Shows the visitor every parameter, then every buffer, then every child, in timm's order and under timm's names.
    fn visit(&self, visitor: &mut Visitor);

    /// What the module is called, where its output can be observed.
    fn label(&self) -> Option<&Label> {
        None
    }
}

/// Collects the entries of a module tree under dotted names.
#[derive(Default)]
pub struct Visitor {
    prefix: String,
    entries: Vec<StateEntry>,
    names: Vec<String>,
}

/// One parameter or buffer of a module tree; the tensor is the module's own, sharing its elements and gradient.
#[derive(Clone, Debug)]
pub struct StateEntry {
    /// The dotted name, as in a PyTorch state dict.
    pub name: String,
    /// The tensor, in Fornax's layout.
    pub tensor: Tensor,
    /// Parameter or buffer.
    pub kind: StateKind,
    /// How the axes relate to PyTorch's.
    pub layout: StateLayout,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// Trained by the optimizer.
    Parameter,
    /// Kept beside the parameters: running statistics, counters.
    Buffer,
}

/// How an entry's axes relate to PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateLayout {
    /// The same.
    Same,
    /// A convolution's weight: `[out, kh, kw, in]` here, `[out, in, kh, kw]` there.
    ConvWeight,
}

impl Visitor {
    /// Shows a parameter.
    pub fn parameter(&mut self, name: &str, tensor: &Tensor) {
        self.push(name, tensor, StateKind::Parameter, StateLayout::Same);
    }

    /// Shows a convolution's weight.
    pub fn conv_weight(&mut self, name: &str, tensor: &Tensor) {
        self.push(name, tensor, StateKind::Parameter, StateLayout::ConvWeight);
    }

    /// Shows a buffer.
    pub fn buffer(&mut self, name: &str, tensor: &Tensor) {
        self.push(name, tensor, StateKind::Buffer, StateLayout::Same);
    }

    /// Visits a child under its name.
    pub fn child(&mut self, name: &str, module: &(impl Module + ?Sized)) {
        let parent = self.prefix.len();
        self.prefix.push_str(name);
        if let Some(label) = module.label() {
            label.set(&self.prefix);
            self.names.push(self.prefix.clone());
        }
        self.prefix.push('.');
        module.visit(self);
        self.prefix.truncate(parent);
    }

    fn push(&mut self, name: &str, tensor: &Tensor, kind: StateKind, layout: StateLayout) {
        self.entries.push(StateEntry {
            name: format!("{}{name}", self.prefix),
            tensor: tensor.clone(),
            kind,
            layout,
        });
    }
}

/// Every parameter and buffer of a module tree, in the order of a PyTorch state dict.
pub fn state_entries(module: &(impl Module + ?Sized)) -> Vec<StateEntry> {
    let mut visitor = Visitor::default();
    module.visit(&mut visitor);
    visitor.entries
}

/// The dotted names of all layers whose output can be observed, in the order of a visit.
pub fn layer_names(module: &(impl Module + ?Sized)) -> Vec<String> {
    let mut visitor = Visitor::default();
    module.visit(&mut visitor);
    visitor.names
}

/// Names and tensors of all parameters, in registration order.
pub fn named_parameters(module: &(impl Module + ?Sized)) -> Vec<(String, Tensor)> {
    of_kind(module, StateKind::Parameter)
}

/// Names and tensors of all buffers, in registration order.
pub fn named_buffers(module: &(impl Module + ?Sized)) -> Vec<(String, Tensor)> {
    of_kind(module, StateKind::Buffer)
}

/// Moves every float parameter and buffer of a module tree to a device. Counters stay on the CPU, which reads and writes them.
/// The module must not be in use meanwhile, and optimizers are made afterwards.
pub fn move_to(module: &(impl Module + ?Sized), device: &Device) -> Result<()> {
    state_entries(module)
        .iter()
        .filter(|e| e.tensor.dtype().is_float())
        .try_for_each(|e| e.tensor.move_to(device))
}

/// Counts a batch in every module that counts batches, as a training pass does: for one that was replayed, and so did not pass through
/// the modules.
pub fn increment_num_batches_tracked(module: &(impl Module + ?Sized)) -> Result<()> {
    let counts = |e: &&StateEntry| e.kind == StateKind::Buffer && e.name.ends_with("num_batches_tracked");
    state_entries(module).iter().filter(counts).try_for_each(|e| {
        e.tensor.write::<i64>()?[0] += 1;
        Ok(())
    })
}

fn of_kind(module: &(impl Module + ?Sized), kind: StateKind) -> Vec<(String, Tensor)> {
    state_entries(module).into_iter().filter(|e| e.kind == kind).map(|e| (e.name, e.tensor)).collect()
}
