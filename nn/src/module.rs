//! Module trait, and access to named parameters and buffers.
use crate::Context;
use crate::capture::LayerInfo;
use crate::precision::Operation;
use fornax_engine::{Device, Result, Tensor};

/// Layer or model: PyTorch's `nn.Module`.
pub trait Module: Send + Sync {
    /// Output for an input.
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor>;

    /// Registers every parameter, then every buffer, then every child with the visitor, in timm's order and under timm's names.
    fn visit(&self, visitor: &mut Visitor);

    /// Category of the first operation that reads the elements of the input. The caller may pass an input that was already cast to the dtype
    /// of this category, if it is not [`Operation::Input`]: the output is the same.
    fn input_operation(&self) -> Operation {
        Operation::Input
    }

    /// Name and type of the module; `None` if its output cannot be captured.
    fn layer_info(&self) -> Option<&LayerInfo> {
        None
    }
}

/// Collects the state of a module tree under dotted names.
#[derive(Default)]
pub struct Visitor {
    prefix: String,
    entries: Vec<StateEntry>,
    names: Vec<String>,
}

/// Parameter or buffer of a module tree. The tensor shares its storage and gradient with the module's.
#[derive(Clone, Debug)]
pub struct StateEntry {
    /// Dotted name, as in a PyTorch state dict.
    pub name: String,
    /// Tensor in Fornax's layout.
    pub tensor: Tensor,
    /// Parameter or buffer.
    pub kind: StateKind,
    /// Conversion to PyTorch's axes.
    pub layout: StateLayout,
}

/// Kind of a state entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// Parameter, updated by the optimizer.
    Parameter,
    /// Buffer: running statistics, counters.
    Buffer,
}

/// Relation of a tensor's axes to PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateLayout {
    /// Same axes.
    Same,
    /// Convolution weight: `[out, kh, kw, in]` in Fornax, `[out, in, kh, kw]` in PyTorch.
    ConvWeight,
}

impl Visitor {
    /// Registers a parameter.
    pub fn parameter(&mut self, name: &str, tensor: &Tensor) {
        self.push(name, tensor, StateKind::Parameter, StateLayout::Same);
    }

    /// Registers a convolution weight.
    pub fn conv_weight(&mut self, name: &str, tensor: &Tensor) {
        self.push(name, tensor, StateKind::Parameter, StateLayout::ConvWeight);
    }

    /// Registers a buffer.
    pub fn buffer(&mut self, name: &str, tensor: &Tensor) {
        self.push(name, tensor, StateKind::Buffer, StateLayout::Same);
    }

    /// Visits a child module under its name.
    pub fn child(&mut self, name: &str, module: &(impl Module + ?Sized)) {
        let parent = self.prefix.len();
        self.prefix.push_str(name);
        if let Some(label) = module.layer_info() {
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

/// All parameters and buffers of a module tree, in the order of a PyTorch state dict.
pub fn state_entries(module: &(impl Module + ?Sized)) -> Vec<StateEntry> {
    let mut visitor = Visitor::default();
    module.visit(&mut visitor);
    visitor.entries
}

/// Dotted names of all layers whose output can be captured, in registration order.
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

/// Moves every float parameter and buffer of a module tree to a device. Counters are on the CPU, where they are updated, except those
/// that a batch norm without momentum reads: it moves them itself. The module must
/// not be in use during the move, and optimizers must be created afterwards.
pub fn move_to(module: &(impl Module + ?Sized), device: &Device) -> Result<()> {
    state_entries(module)
        .iter()
        .filter(|e| e.tensor.dtype().is_float())
        .try_for_each(|e| e.tensor.move_to(device))
}

/// Increments `num_batches_tracked` of every batch norm that counts on the CPU, as a training pass does. For replayed CUDA graphs, which do
/// not run the modules; they increment the counters on the device.
pub fn increment_num_batches_tracked(module: &(impl Module + ?Sized)) -> Result<()> {
    let counts = |e: &&StateEntry| {
        let is_counter = e.kind == StateKind::Buffer && e.name.ends_with("num_batches_tracked");
        is_counter && e.tensor.device() == Device::Cpu
    };
    state_entries(module).iter().filter(counts).try_for_each(|e| {
        e.tensor.write::<i64>()?[0] += 1;
        Ok(())
    })
}

fn of_kind(module: &(impl Module + ?Sized), kind: StateKind) -> Vec<(String, Tensor)> {
    state_entries(module).into_iter().filter(|e| e.kind == kind).map(|e| (e.name, e.tensor)).collect()
}
