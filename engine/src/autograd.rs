//! Reverse-mode differentiation: the graph that operations leave behind, and the walk back through it.
//!
//! A tensor made by an operation on tensors that require gradients holds a [`Node`]: edges to where its inputs came from
//! and the backward function with what it saved. [`Tensor::backward`] visits nodes in reverse order of creation, adds up
//! gradients, and drops each backward function, and with it the saved tensors, as soon as it has run.
use crate::{Error, Result, Shape, Tensor};
use std::cell::Cell;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Maps the gradient of an operation's output to the gradients of its inputs, `None` where an input needs none.
/// The second argument says which inputs need one.
pub type BackwardFn = dyn Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync;

/// Called with a leaf's gradient once all of it has been added up in a backward pass.
pub type Hook = Box<dyn Fn(&Tensor) -> Result<()> + Send + Sync>;

/// Runs `f` with no operation recorded on this thread.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    while_recording(false, f)
}

/// Runs `f` with operations recorded, or not, on this thread.
fn while_recording<R>(recording: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(recording));
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
    let mut inputs = vec![x];
    inputs.extend(parameters);
    Ok(y.recorded("checkpoint", &inputs, || {
        let (kept, n) = (x.detach(), inputs.len());
        move |grad: Tensor, needs: &[bool]| {
            let x = if needs[0] { kept.variable() } else { kept.clone() };
            while_recording(true, || f(&x, true))?.backward_from(&grad)?;
            // The parameters have theirs already.
            let mut grads = vec![None; n];
            grads[0] = x.grad();
            Ok(grads)
        }
    }))
}

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

/// How a tensor takes part in differentiation.
#[derive(Clone, Default)]
pub(crate) enum Gradient {
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
    pub(crate) working_copy: Mutex<Option<(Tensor, u64)>>,
}

/// One recorded operation.
pub(crate) struct Node {
    /// Grows with creation: an operation comes after all that it depends on.
    sequence: u64,
    op: &'static str,
    shape: Shape,
    inputs: Vec<Gradient>,
    backward: Mutex<Option<Box<BackwardFn>>>,
}

static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// True when an operation on these inputs would be recorded: for those that leave something for their backward pass.
pub(crate) fn is_recorded(inputs: &[&Tensor]) -> bool {
    RECORDING.get() && inputs.iter().any(|t| t.requires_grad())
}

/// Records an operation, when recording is on and an input requires a gradient. `make` builds the backward function, and
/// so saves what it needs, only then.
pub(crate) fn record<F>(
    op: &'static str,
    shape: Shape,
    inputs: &[&Tensor],
    make: impl FnOnce() -> F,
) -> Gradient
where
    F: Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
{
    if !is_recorded(inputs) {
        return Gradient::None;
    }
    Gradient::Node(Arc::new(Node {
        sequence: SEQUENCE.fetch_add(1, Ordering::Relaxed),
        op,
        shape,
        inputs: inputs.iter().map(|t| t.gradient().clone()).collect(),
        backward: Mutex::new(Some(Box::new(make()))),
    }))
}

impl Tensor {
    /// Differentiates this scalar: adds d self / d leaf to [`Tensor::grad`] of every leaf it depends on, and frees the graph.
    ///
    /// Errors: this tensor is not a scalar, depends on no leaf, or was differentiated before.
    pub fn backward(&self) -> Result<()> {
        if self.numel() != 1 {
            return Err(Error::shape(
                "backward",
                &[("output", self)],
                "needs a scalar; reduce it, or use backward_from with an upstream gradient",
            ));
        }
        self.backward_from(&Tensor::full(*self.shape(), 1.0, self.dtype(), &self.device())?)
    }

    /// Differentiates `sum(self * upstream)`; `upstream` has the shape and dtype of this tensor.
    pub fn backward_from(&self, upstream: &Tensor) -> Result<()> {
        if upstream.shape() != self.shape() || upstream.dtype() != self.dtype() {
            return Err(Error::shape(
                "backward",
                &[("output", self), ("upstream", upstream)],
                "the upstream gradient must have the output's shape and dtype",
            ));
        }
        let upstream = upstream.detach();
        match self.gradient() {
            Gradient::None => Err(Error::Autograd {
                why: "this tensor depends on no tensor that requires a gradient".into(),
            }),
            Gradient::Leaf(leaf) => no_grad(|| finish(leaf, upstream)),
            Gradient::Node(root) => no_grad(|| walk(root, upstream)),
        }
    }
}

/// Orders nodes by creation, newest first in a heap.
struct ByAge(Arc<Node>);
impl PartialEq for ByAge {
    fn eq(&self, other: &Self) -> bool {
        self.0.sequence == other.0.sequence
    }
}
impl Eq for ByAge {}
impl PartialOrd for ByAge {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ByAge {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.sequence.cmp(&other.0.sequence)
    }
}

fn walk(root: &Arc<Node>, upstream: Tensor) -> Result<()> {
    let mut pending = leaf_uses(root);
    let mut leaf_sums: HashMap<*const Leaf, Tensor> = HashMap::new();
    let mut sums: HashMap<u64, Tensor> = HashMap::from([(root.sequence, upstream)]);
    let mut heap = BinaryHeap::from([ByAge(root.clone())]);
    while let Some(ByAge(node)) = heap.pop() {
        let grad = sums.remove(&node.sequence).expect("a node is queued with its gradient");
        let backward = node.backward.lock().unwrap_or_else(|e| e.into_inner()).take().ok_or_else(|| {
            Error::Autograd {
                why: format!(
                    "the graph behind {} was already differentiated and freed; run the forward pass again",
                    node.op
                ),
            }
        })?;
        let needs: Vec<bool> = node.inputs.iter().map(|g| !matches!(g, Gradient::None)).collect();
        let grads = backward(grad, &needs)?;
        // What the operation saved goes here, before its inputs' backward functions run.
        drop(backward);
        debug_assert_eq!(grads.len(), node.inputs.len(), "{} returns a gradient for each input", node.op);
        for (input, grad) in node.inputs.iter().zip(grads) {
            match (input, grad) {
                (Gradient::Node(n), Some(grad)) => {
                    debug_assert_eq!(
                        grad.shape(),
                        &n.shape,
                        "{}: gradient for the output of {}",
                        node.op,
                        n.op
                    );
                    match sums.remove(&n.sequence) {
                        Some(sum) => sums.insert(n.sequence, sum.accumulate(grad)?),
                        None => {
                            heap.push(ByAge(n.clone()));
                            sums.insert(n.sequence, grad)
                        }
                    };
                }
                (Gradient::Leaf(leaf), grad) => arrive(leaf, grad, &mut pending, &mut leaf_sums)?,
                _ => {}
            }
        }
    }
    // Leaves behind branches that no gradient reached.
    for (_, (leaf, uses)) in pending {
        if uses > 0
            && let Some(sum) = leaf_sums.remove(&Arc::as_ptr(&leaf))
        {
            finish(&leaf, sum)?;
        }
    }
    Ok(())
}

/// One of a leaf's contributions is known; the last one completes its gradient.
fn arrive(
    leaf: &Arc<Leaf>,
    grad: Option<Tensor>,
    pending: &mut HashMap<*const Leaf, (Arc<Leaf>, usize)>,
    sums: &mut HashMap<*const Leaf, Tensor>,
) -> Result<()> {
    let id = Arc::as_ptr(leaf);
    let mut sum = sums.remove(&id);
    if let Some(grad) = grad {
        sum = Some(match sum {
            Some(sum) => sum.accumulate(grad)?,
            None => grad,
        });
    }
    let left = pending.get_mut(&id).map(|(_, uses)| {
        *uses -= 1;
        *uses
    });
    match (sum, left) {
        (Some(sum), Some(1..)) => {
            sums.insert(id, sum);
            Ok(())
        }
        (Some(sum), _) => finish(leaf, sum),
        (None, _) => Ok(()),
    }
}

/// How many edges of the graph lead to each leaf.
fn leaf_uses(root: &Arc<Node>) -> HashMap<*const Leaf, (Arc<Leaf>, usize)> {
    let mut uses: HashMap<*const Leaf, (Arc<Leaf>, usize)> = HashMap::new();
    let mut seen = std::collections::HashSet::from([root.sequence]);
    let mut stack = vec![root.clone()];
    while let Some(node) = stack.pop() {
        for input in &node.inputs {
            match input {
                Gradient::Leaf(leaf) => uses.entry(Arc::as_ptr(leaf)).or_insert((leaf.clone(), 0)).1 += 1,
                Gradient::Node(n) if seen.insert(n.sequence) => stack.push(n.clone()),
                _ => {}
            }
        }
    }
    uses
}

/// Adds a complete gradient to what the leaf holds and runs its hooks.
fn finish(leaf: &Arc<Leaf>, grad: Tensor) -> Result<()> {
    let total = {
        let mut slot = leaf.grad.lock().unwrap_or_else(|e| e.into_inner());
        let total = match slot.take() {
            Some(held) => held.accumulate(grad)?,
            None => grad,
        };
        *slot = Some(total.clone());
        total
    };
    for hook in leaf.hooks.lock().unwrap_or_else(|e| e.into_inner()).iter() {
        hook(&total)?;
    }
    Ok(())
}
