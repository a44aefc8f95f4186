//! Reverse-mode automatic differentiation: the graph of tracked operations, and the backward passes through it.
//!
//! The result of an operation on tensors that require gradients holds a [`Node`]: edges to the nodes of its inputs, and the backward
//! function with its saved tensors. [`Tensor::backward`] visits nodes in reverse order of creation, accumulates gradients in the
//! leaves, and drops each backward function and its saved tensors as soon as it has run. [`gradients()`] returns the gradients of chosen
//! tensors instead, and can track their computation, so that they can be differentiated again.
mod gradients;
mod hooks;
mod leaf_backward;
mod saved_versions;
mod with_backward;
mod with_gradient;

pub use gradients::gradients;
pub(crate) use gradients::recomputed_gradients;
pub use hooks::{GradientHook, Hook};

use crate::{DType, Error, Result, Shape, Tensor};
use hooks::GradientHooks;
use saved_versions::SavedVersions;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Backward function of an operation: maps the gradient of its output to the gradients of its inputs. The second argument marks
/// the inputs that need a gradient; the others get `None`.
pub type BackwardFn = dyn Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync;

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

/// `f(x)` with gradient checkpointing: only x is saved, and the backward pass recomputes `f` (Chen et al., "Training deep nets with
/// sublinear memory cost", 2016). `parameters` are the variables that `f` reads; they receive gradients as usual. `f` must be
/// deterministic. Its second argument is true when it is recomputed, so that running statistics are updated only once.
pub fn checkpoint<F>(x: &Tensor, parameters: &[Tensor], f: F) -> Result<Tensor>
where
    F: Fn(&Tensor, bool) -> Result<Tensor> + Send + Sync + 'static,
{
    let y = no_grad(|| f(&x.detach(), false))?;
    let inputs: Vec<&Tensor> = [x].into_iter().chain(parameters).collect();
    Ok(y.with_composed_backward("checkpoint", &inputs, || {
        let saved: Vec<Tensor> = inputs.iter().map(|t| (*t).clone()).collect();
        move |grad: Tensor, needs: &[bool]| {
            let create_graph = GRAD_ENABLED.get();
            let x = match (needs[0], create_graph) {
                (true, true) => saved[0].reshape(*saved[0].shape())?,
                (true, false) => saved[0].detach().variable(),
                (false, _) => saved[0].detach(),
            };
            let y = with_grad_enabled(true, || f(&x, true))?;
            let all = [&x].into_iter().chain(&saved[1..]).zip(needs);
            let wanted: Vec<&Tensor> = all.filter_map(|(t, need)| need.then_some(t)).collect();
            let mut grads = gradients(&[(&y, &grad)], &wanted, create_graph)?.into_iter();
            Ok(needs.iter().map(|need| if *need { grads.next().flatten() } else { None }).collect())
        }
    }))
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
    saved: Mutex<SavedVersions>,
    backward: Mutex<Option<Arc<Backward>>>,
    hooks: GradientHooks,
}

/// The backward function of an operation, and whether it supports `create_graph`.
pub(crate) enum Backward {
    /// Kernels, which are not tracked: first derivatives only.
    Once(Box<BackwardFn>),
    /// A composition of operations, on saved tensors that are still in the graph: derivatives of any order.
    Composed(Box<BackwardFn>),
    /// A cast from this dtype to another float dtype.
    Cast(DType),
    /// Kernels, with alternatives.
    Fused(FusedBackward),
    /// As `Composed`, for a function that can add to the gradients of other operations.
    Accumulating(Box<AccumulatingBackwardFn>),
    /// A function of the operation's own output, which is passed to it. (Saving a tracked output in the function would be a reference
    /// cycle.)
    FromOutput(Tensor, Box<OutputBackwardFn>),
}

/// Backward function by kernels, with alternatives for some cases.
pub(crate) struct FusedBackward {
    pub(crate) kernels: Box<BackwardFn>,
    /// An equivalent composition of operations that replaces the kernels with `create_graph`; without it, the operation has no second
    /// derivative.
    pub(crate) composition: Option<Box<BackwardFn>>,
    /// The function for a gradient whose last term is not computed yet.
    pub(crate) joining: Option<Box<JoiningBackwardFn>>,
}

/// A [`BackwardFn`] whose gradient is the sum of a term and a tensor, if any.
pub(crate) type JoiningBackwardFn =
    dyn Fn(&dyn PendingTerm, Option<Tensor>, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync;

/// Term of a gradient that is left to the next backward function, which may compute it together with its own work.
pub(crate) trait PendingTerm: Any + Send + Sync {
    /// The sum of the term and `sum`.
    fn add_to(&self, sum: Option<Tensor>) -> Result<Tensor>;
}

/// The gradient of an input to which an [`AccumulatingBackwardFn`] contributes.
#[derive(Default)]
pub(crate) struct GradientSum {
    /// Sum of the gradients that other operations have computed so far, if any. A function that takes it returns the new sum in place of
    /// its gradient.
    pub(crate) sum: Option<Tensor>,
    /// The backward function of the operation that computed the input takes a [`GradientSum::term`].
    pub(crate) accepts_term: bool,
    /// The function's gradient, if it is not computed yet; the function then returns none.
    pub(crate) term: Option<Box<dyn PendingTerm>>,
}

/// A [`BackwardFn`] with a third argument: for each input, the state of its gradient. With `create_graph` there are no sums.
pub(crate) type AccumulatingBackwardFn =
    dyn Fn(Tensor, &[bool], &mut [GradientSum]) -> Result<Vec<Option<Tensor>>> + Send + Sync;

/// A [`BackwardFn`] whose first argument is the operation's output.
pub(crate) type OutputBackwardFn =
    dyn Fn(&Tensor, Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync;

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// True when an operation on these inputs is tracked: gradients are enabled, and an input requires one.
pub(crate) fn is_tracked(inputs: &[&Tensor]) -> bool {
    GRAD_ENABLED.get() && inputs.iter().any(|t| t.requires_grad())
}

/// Adds an operation to the graph if it [is tracked](is_tracked). Only then is `make` called, which builds the backward function and
/// saves its tensors; writing to a tensor of `saved` before the backward pass makes that pass an error.
fn track(
    op: &'static str,
    shape: Shape,
    inputs: &[&Tensor],
    saved: &[&Tensor],
    make: impl FnOnce() -> Backward,
) -> AutogradMeta {
    if !is_tracked(inputs) {
        return AutogradMeta::None;
    }
    AutogradMeta::Node(Arc::new(Node {
        sequence: SEQUENCE.fetch_add(1, Ordering::Relaxed),
        op,
        shape,
        inputs: inputs.iter().map(|t| t.autograd_meta().clone()).collect(),
        saved: Mutex::new(SavedVersions::of(saved)),
        backward: Mutex::new(Some(Arc::new(make()))),
        hooks: GradientHooks::default(),
    }))
}

impl Node {
    /// True if the backward function can add its gradients to sums of gradients.
    fn accumulates(&self) -> bool {
        matches!(self.backward().as_deref(), Some(Backward::Accumulating(_)))
    }

    /// True if the backward function takes a gradient whose last term is not computed yet. A hook needs the whole gradient.
    fn joins(&self) -> bool {
        self.hooks.is_empty()
            && matches!(
                self.backward().as_deref(),
                Some(Backward::Fused(FusedBackward { joining: Some(_), .. }))
            )
    }

    /// [`Node::differentiate`] of a node that [joins](Node::joins), for the gradient `term + sum`.
    fn differentiate_joined(
        &self,
        term: &dyn PendingTerm,
        sum: Option<Tensor>,
        needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let backward = self.backward().take();
        let Some(Backward::Fused(FusedBackward { joining: Some(f), .. })) = backward.as_deref() else {
            unreachable!("{} was offered a term", self.op)
        };
        self.saved().check(self.op)?;
        f(term, sum, needs)
    }

    /// True for the cast of a variable whose gradient may stay in the dtype of the cast, that of `grad`.
    fn passes_low_precision_grad(&self, grad: &Tensor) -> bool {
        matches!(grad.dtype(), DType::F16 | DType::BF16)
            && matches!(self.backward().as_deref(), Some(Backward::Cast(_)))
            && matches!(&self.inputs[0], AutogradMeta::Leaf(leaf) if leaf.accepts_low_precision())
    }

    /// The gradients of the inputs that need one; where a sum was taken from `sums`, the new sum. With `create_graph` the backward function
    /// stays, and the gradients are tracked; otherwise it is dropped with its saved tensors before the backward functions of the inputs run.
    fn differentiate(
        self: &Arc<Node>,
        grad: Tensor,
        needs: &[bool],
        sums: &mut [GradientSum],
        create_graph: bool,
    ) -> Result<Vec<Option<Tensor>>> {
        let backward = if create_graph { self.backward().clone() } else { self.backward().take() };
        let backward = backward.ok_or_else(|| Error::Autograd {
            why: format!(
                "the graph of {} was already differentiated and freed; run the forward pass again",
                self.op
            ),
        })?;
        self.saved().check(self.op)?;
        let grads = match &*backward {
            Backward::Once(_) | Backward::Fused(FusedBackward { composition: None, .. }) if create_graph => {
                Err(Error::Autograd {
                    why: format!(
                        "{} has no second derivative; call gradients with create_graph = false",
                        self.op
                    ),
                })
            }
            Backward::Once(f) | Backward::Composed(f) => f(grad, needs),
            Backward::Accumulating(f) => f(grad, needs, sums),
            Backward::Cast(from) => Ok(vec![Some(grad.to_dtype(*from)?)]),
            Backward::Fused(FusedBackward { composition: Some(f), .. }) if create_graph => f(grad, needs),
            Backward::Fused(FusedBackward { kernels, .. }) => kernels(grad, needs),
            Backward::FromOutput(y, f) if create_graph => {
                f(&y.with_autograd_meta(AutogradMeta::Node(self.clone())), grad, needs)
            }
            Backward::FromOutput(y, f) => f(y, grad, needs),
        }?;
        debug_assert_eq!(grads.len(), self.inputs.len(), "{} returns a gradient for each input", self.op);
        Ok(grads)
    }

    fn saved(&self) -> MutexGuard<'_, SavedVersions> {
        self.saved.lock().unwrap_or_else(|e| e.into_inner())
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
