//! Reverse-mode automatic differentiation: the graph of tracked operations, and the backward passes through it.
//!
//! The result of an operation on tensors that require gradients holds a [`Node`]: edges to the nodes of its inputs, and the backward
//! function with its saved tensors. [`Tensor::backward`] visits nodes in reverse order of creation, accumulates gradients in the
//! leaves, and drops each backward function and its saved tensors as soon as it has run. [`gradients()`] returns the gradients of chosen
//! tensors instead, and can track their computation, so that they can be differentiated again.
mod checkpoint;
mod derivative;
mod gradients;
mod hooks;
mod leaf_backward;
mod saved;
mod saved_versions;
mod with_gradient;

pub use checkpoint::checkpoint;
pub(crate) use derivative::{Derivative, GradientSum, Gradients, PendingTerm};
pub use gradients::gradients;
pub(crate) use gradients::recomputed_gradients;
pub use hooks::{GradientHook, Hook};
pub(crate) use saved::{Saved, Saves};

use crate::{DType, Error, Result, Shape, Tensor};
use hooks::GradientHooks;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Runs `f` with gradient tracking disabled on this thread, as PyTorch's `no_grad`.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    with_grad_enabled(false, f)
}

/// Runs `f` with gradient tracking enabled or disabled on this thread.
pub(crate) fn with_grad_enabled<R>(enabled: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            GRAD_ENABLED.set(self.0);
        }
    }
    let _restore = Restore(GRAD_ENABLED.replace(enabled));
    f()
}

thread_local! {
    static GRAD_ENABLED: Cell<bool> = const { Cell::new(true) };
}

/// Autograd metadata of a tensor.
#[derive(Clone, Default)]
pub(crate) enum AutogradMeta {
    /// Requires no gradient.
    #[default]
    None,
    /// A variable, which accumulates a gradient.
    Leaf(Arc<Leaf>),
    /// The output of a tracked operation.
    Node(Arc<Node>),
}

/// A variable's accumulated gradient and its hooks. It does not hold the variable's elements, so that a graph does not keep them alive.
pub(crate) struct Leaf {
    pub(crate) dtype: DType,
    pub(crate) grad: Mutex<Option<Tensor>>,
    /// Hooks on the gradient of one backward pass, before it is accumulated.
    pub(crate) gradient_hooks: GradientHooks,
    /// Hooks on the accumulated gradient.
    pub(crate) hooks: Mutex<Vec<Hook>>,
    /// See [`Tensor::allow_low_precision_grad`].
    pub(crate) allows_low_precision_grad: AtomicBool,
    /// Autocast cache: the variable cast to another dtype, and the version of the elements that it was cast from.
    pub(crate) autocast_cache: Mutex<Option<(Tensor, u64)>>,
}

impl Leaf {
    pub(crate) fn new(dtype: DType) -> Leaf {
        Leaf {
            dtype,
            grad: Mutex::default(),
            gradient_hooks: GradientHooks::default(),
            hooks: Mutex::default(),
            allows_low_precision_grad: AtomicBool::new(false),
            autocast_cache: Mutex::default(),
        }
    }

    /// True if the gradient may stay in the dtype of the cast in the autocast cache.
    fn accepts_low_precision(&self) -> bool {
        self.allows_low_precision_grad.load(Ordering::Relaxed)
    }
}

/// A tracked operation.
pub(crate) struct Node {
    /// Number in order of creation: larger than those of the operations it depends on.
    sequence: u64,
    op: &'static str,
    shape: Shape,
    inputs: Vec<AutogradMeta>,
    backward: Mutex<Option<Arc<Backward>>>,
    hooks: GradientHooks,
}

/// Derivative of a tracked operation, and the tensors that it reads.
struct Backward {
    derivative: Box<dyn Derivative>,
    saved: Saved,
}

/// True if operations on this thread are tracked: also in a backward pass with `create_graph`.
pub(crate) fn is_grad_enabled() -> bool {
    GRAD_ENABLED.get()
}

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// True when an operation on these inputs is tracked: gradients are enabled, and an input requires one.
pub(crate) fn is_tracked(inputs: &[&Tensor]) -> bool {
    GRAD_ENABLED.get() && inputs.iter().any(|t| t.requires_grad())
}

/// Adds an operation with a float result to the graph if it [is tracked](is_tracked): its first result becomes the output of a node. Writing to a
/// saved tensor before the backward pass makes that pass an error.
pub(crate) fn track(
    op: &'static str,
    operands: &[&Tensor],
    mut results: Vec<Tensor>,
    derivative: impl Derivative,
) -> Vec<Tensor> {
    if !is_tracked(operands) || !results[0].dtype().is_float() {
        return results;
    }
    let needs: Vec<bool> = operands.iter().map(|t| t.requires_grad()).collect();
    let mut saved = Saved::new(derivative.saves(&needs), operands, &results);
    saved.extend_versions(&derivative.holds());
    let node = Node {
        sequence: SEQUENCE.fetch_add(1, Ordering::Relaxed),
        op,
        shape: *results[0].shape(),
        inputs: operands.iter().map(|t| t.autograd_meta().clone()).collect(),
        backward: Mutex::new(Some(Arc::new(Backward { derivative: Box::new(derivative), saved }))),
        hooks: GradientHooks::default(),
    };
    results[0] = results[0].with_autograd_meta(AutogradMeta::Node(Arc::new(node)));
    results
}

impl Node {
    /// True if the derivative can add its gradients to sums of gradients.
    fn accumulates(&self) -> bool {
        self.backward().as_ref().is_some_and(|backward| backward.derivative.accumulates())
    }

    /// True if the derivative takes a gradient whose last term is not computed yet. A hook needs the whole gradient.
    fn joins(&self) -> bool {
        self.hooks.is_empty() && self.backward().as_ref().is_some_and(|backward| backward.derivative.joins())
    }

    /// [`Node::differentiate`] of a node that [joins](Node::joins), for the gradient `term + sum`.
    fn differentiate_joined(
        &self,
        term: &dyn PendingTerm,
        sum: Option<Tensor>,
        needs: &[bool],
    ) -> Result<Gradients> {
        let backward = self.backward().take().ok_or_else(|| self.was_freed())?;
        backward.saved.check(self.op)?;
        backward.derivative.backward_joined(&backward.saved, term, sum, needs)
    }

    /// True for the cast of a variable whose gradient may stay in the dtype of the cast, that of `grad`.
    fn passes_low_precision_grad(&self, grad: &Tensor) -> bool {
        grad.dtype().is_half()
            && self.backward().as_ref().is_some_and(|backward| backward.derivative.is_cast())
            && matches!(&self.inputs[0], AutogradMeta::Leaf(leaf) if leaf.accepts_low_precision())
    }

    /// The gradients of the inputs that need one; where a sum was taken from `sums`, the new sum. With `create_graph` the derivative stays, and
    /// the gradients are tracked; otherwise it is dropped with its saved tensors before the derivatives of the inputs run.
    fn differentiate(
        self: &Arc<Node>,
        grad: Tensor,
        needs: &[bool],
        sums: &mut [GradientSum],
        create_graph: bool,
    ) -> Result<Gradients> {
        let backward = if create_graph { self.backward().clone() } else { self.backward().take() };
        let backward = backward.ok_or_else(|| self.was_freed())?;
        let Backward { derivative, saved } = &*backward;
        saved.check(self.op)?;
        let grads = match create_graph {
            true => derivative.backward(&saved.with_tracked_result(self), grad, needs),
            false => derivative.backward_into(saved, grad, needs, sums),
        }?;
        debug_assert_eq!(grads.len(), self.inputs.len(), "{} returns a gradient for each input", self.op);
        Ok(grads)
    }

    fn was_freed(&self) -> Error {
        let why = format!(
            "the graph of {} was already differentiated and freed; run the forward pass again",
            self.op
        );
        Error::Autograd { why }
    }

    fn backward(&self) -> MutexGuard<'_, Option<Arc<Backward>>> {
        self.backward.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Checks the shape of this operation's output gradient in debug builds; `by` is the operation that computed it.
    fn check_shape(&self, grad: &Tensor, by: &str) {
        debug_assert_eq!(grad.shape(), &self.shape, "{by}: gradient for the output of {}", self.op);
    }
}

thread_local! {
    /// Inputs of dropped nodes that are still to be dropped.
    static DROPPED: RefCell<Vec<AutogradMeta>> = const { RefCell::new(vec![]) };
    static DROPPING: Cell<bool> = const { Cell::new(false) };
}

/// Nodes are dropped iteratively: recursion would overflow the stack on a deep graph.
impl Drop for Node {
    fn drop(&mut self) {
        DROPPED.with_borrow_mut(|dropped| dropped.append(&mut self.inputs));
        *self.backward() = None;
        if !DROPPING.replace(true) {
            while let Some(next) = DROPPED.with_borrow_mut(Vec::pop) {
                drop(next);
            }
            DROPPING.set(false);
        }
    }
}
