//! Reverse-mode differentiation: the graph that operations leave behind, and the ways back through it.
//!
//! A tensor made by an operation on tensors that require gradients holds a [`Node`]: edges to where its inputs came from
//! and the backward function with what it saved. [`Tensor::backward`] visits nodes in reverse order of creation, adds up
//! gradients, and drops each backward function, and with it the saved tensors, as soon as it has run. [`gradients`] returns those of
//! chosen tensors, and leaves a graph behind them if asked to, so that they can be differentiated in turn.
mod gradients;
mod leaf_backward;
mod with_backward;

pub use gradients::gradients;
pub(crate) use gradients::recomputed_gradients;

use crate::{Error, Result, Shape, Tensor};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Maps the gradient of an operation's output to the gradients of its inputs, `None` where an input needs none.
/// The second argument says which inputs need one.
pub type BackwardFn = dyn Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync;

/// Called with a leaf's gradient once all of it has been added up in a backward pass.
pub type Hook = Box<dyn Fn(&Tensor) -> Result<()> + Send + Sync>;

/// Runs `f` with no operation recorded on this thread.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    with_grad_enabled(false, f)
}

/// Runs `f` with operations recorded, or not, on this thread.
fn with_grad_enabled<R>(recording: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            GRAD_ENABLED.set(self.0);
        }
    }
    let _restore = Restore(GRAD_ENABLED.replace(recording));
    f()
}

/// `f(x)`, of which nothing is kept for the backward pass but x: that runs `f` again (Chen et al., "Training deep nets with
/// sublinear memory cost", 2016). `parameters` are the variables that `f` reads; they collect their gradients as ever. `f` must give
/// the same bits each time, and is told by its second argument when it runs again, so that running statistics change once.
pub fn checkpoint<F>(x: &Tensor, parameters: &[Tensor], f: F) -> Result<Tensor>
where
    F: Fn(&Tensor, bool) -> Result<Tensor> + Send + Sync + 'static,
{
    let y = no_grad(|| f(&x.detach(), false))?;
    let inputs: Vec<&Tensor> = [x].into_iter().chain(parameters).collect();
    Ok(y.with_composed_backward("checkpoint", &inputs, || {
        let kept: Vec<Tensor> = inputs.iter().map(|t| (*t).clone()).collect();
        move |grad: Tensor, needs: &[bool]| {
            let create_graph = GRAD_ENABLED.get();
            let x = match (needs[0], create_graph) {
                (true, true) => kept[0].reshape(*kept[0].shape())?,
                (true, false) => kept[0].detach().variable(),
                (false, _) => kept[0].detach(),
            };
            let y = with_grad_enabled(true, || f(&x, true))?;
            let all = [&x].into_iter().chain(&kept[1..]).zip(needs);
            let wanted: Vec<&Tensor> = all.filter_map(|(t, need)| need.then_some(t)).collect();
            let mut grads = gradients(&[(&y, &grad)], &wanted, create_graph)?.into_iter();
            Ok(needs.iter().map(|need| if *need { grads.next().flatten() } else { None }).collect())
        }
    }))
}

thread_local! {
    static GRAD_ENABLED: Cell<bool> = const { Cell::new(true) };
}

/// How a tensor takes part in differentiation.
#[derive(Clone, Default)]
pub(crate) enum AutogradMeta {
    /// Not at all.
    #[default]
    None,
    /// As a variable that collects a gradient.
    Leaf(Arc<Leaf>),
    /// As the result of an operation.
    Node(Arc<Node>),
}

/// A variable's collected gradient and its hooks. The variable's values are elsewhere, so that a graph does not hold them.
#[derive(Default)]
pub(crate) struct Leaf {
    pub(crate) grad: Mutex<Option<Tensor>>,
    pub(crate) hooks: Mutex<Vec<Hook>>,
    /// The variable in another dtype, with the version of its elements that this is a copy of.
    pub(crate) autocast_cache: Mutex<Option<(Tensor, u64)>>,
}

/// One recorded operation.
pub(crate) struct Node {
    /// Grows with creation: an operation comes after all that it depends on.
    sequence: u64,
    op: &'static str,
    shape: Shape,
    inputs: Vec<AutogradMeta>,
    backward: Mutex<Option<Arc<Backward>>>,
}

/// How an operation is differentiated.
pub(crate) enum Backward {
    /// By kernels that leave no graph behind: once only.
    Once(Box<BackwardFn>),
    /// By operations, on tensors that were saved with their place in the graph: as often as these can be.
    Composed(Box<BackwardFn>),
    /// By kernels and, where a graph is wanted, by the composition that stands in for them.
    Fused { kernels: Box<BackwardFn>, composition: Box<BackwardFn> },
    /// By its own output, which has its place in the graph where one is wanted. (A function that saved it like that would keep
    /// itself alive.)
    FromOutput(Tensor, Box<OutputBackwardFn>),
}

/// A [`BackwardFn`] that is first given the operation's output.
pub(crate) type OutputBackwardFn =
    dyn Fn(&Tensor, Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync;

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// True when an operation on these inputs would be recorded: for those that leave something for their backward pass.
pub(crate) fn is_tracked(inputs: &[&Tensor]) -> bool {
    GRAD_ENABLED.get() && inputs.iter().any(|t| t.requires_grad())
}

/// Records an operation, when recording is on and an input requires a gradient. `make` builds the backward function, and
/// so saves what it needs, only then.
fn track(
    op: &'static str,
    shape: Shape,
    inputs: &[&Tensor],
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
        backward: Mutex::new(Some(Arc::new(make()))),
    }))
}

impl Node {
    /// The gradients of the inputs that need one. `keeps` leaves the graph as it is and another one behind the gradients; else the
    /// backward function goes with what it saved, before those of the inputs run.
    fn differentiate(
        self: &Arc<Node>,
        grad: Tensor,
        needs: &[bool],
        keeps: bool,
    ) -> Result<Vec<Option<Tensor>>> {
        let backward = if keeps { self.backward().clone() } else { self.backward().take() };
        let backward = backward.ok_or_else(|| Error::Autograd {
            why: format!(
                "the graph behind {} was already differentiated and freed; run the forward pass again",
                self.op
            ),
        })?;
        let grads = match &*backward {
            Backward::Once(_) if keeps => Err(Error::Autograd {
                why: format!("the backward pass of {} cannot be differentiated in turn", self.op),
            }),
            Backward::Once(f) | Backward::Composed(f) => f(grad, needs),
            Backward::Fused { kernels, composition } => {
                if keeps {
                    composition(grad, needs)
                } else {
                    kernels(grad, needs)
                }
            }
            Backward::FromOutput(y, f) if keeps => {
                f(&y.with_autograd_meta(AutogradMeta::Node(self.clone())), grad, needs)
            }
            Backward::FromOutput(y, f) => f(y, grad, needs),
        }?;
        debug_assert_eq!(grads.len(), self.inputs.len(), "{} returns a gradient for each input", self.op);
        Ok(grads)
    }

    fn backward(&self) -> MutexGuard<'_, Option<Arc<Backward>>> {
        self.backward.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Checks, in debug builds, what an operation says to be the gradient of this one's output.
    fn check_shape(&self, grad: &Tensor, by: &str) {
        debug_assert_eq!(grad.shape(), &self.shape, "{by}: gradient for the output of {}", self.op);
    }
}

thread_local! {
    /// What dropped nodes led to, while one is being dropped.
    static DROPPED: RefCell<Vec<AutogradMeta>> = const { RefCell::new(vec![]) };
    static DROPPING: Cell<bool> = const { Cell::new(false) };
}

/// Nodes are dropped one after the other: a graph of gradients can be too deep for one within the other.
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
