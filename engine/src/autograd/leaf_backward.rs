//! The leaf-gradient backward pass: accumulates gradients in the variables, and frees the graph.
use super::{AutogradMeta, GradientSum, Leaf, Node, PendingTerm, no_grad};
use crate::{Error, Result, Tensor};
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

impl Tensor {
    /// Backward pass from this scalar: adds d self / d leaf to [`Tensor::grad`] of every leaf it depends on, and frees the graph.
    ///
    /// Errors: this tensor is not a scalar, requires no gradient, or its graph was freed before.
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

    /// Backward pass from `sum(self * upstream)`; `upstream` must have the shape and dtype of this tensor.
    pub fn backward_from(&self, upstream: &Tensor) -> Result<()> {
        check_upstream(self, upstream)?;
        let upstream = upstream.detach();
        match self.autograd_meta() {
            AutogradMeta::None => Err(Error::Autograd {
                why: "this tensor does not require a gradient; compute it from a variable, outside no_grad"
                    .into(),
            }),
            AutogradMeta::Leaf(leaf) => no_grad(|| accumulate_grad(leaf, upstream)),
            AutogradMeta::Node(root) => no_grad(|| run_backward(root, upstream)),
        }
    }
}

/// Errors unless the upstream gradient has the output's shape and dtype.
pub(super) fn check_upstream(output: &Tensor, upstream: &Tensor) -> Result<()> {
    if upstream.shape() == output.shape() && upstream.dtype() == output.dtype() {
        return Ok(());
    }
    Err(Error::shape(
        "backward",
        &[("output", output), ("upstream", upstream)],
        "the upstream gradient must have the output's shape and dtype",
    ))
}

/// A node ordered by its sequence number: a heap pops the newest first.
struct BySequence(Arc<Node>);
impl PartialEq for BySequence {
    fn eq(&self, other: &Self) -> bool {
        self.0.sequence == other.0.sequence
    }
}
impl Eq for BySequence {}
impl PartialOrd for BySequence {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for BySequence {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.sequence.cmp(&other.0.sequence)
    }
}

/// Gradient of a queued node's output so far.
#[derive(Default)]
struct QueuedGradient {
    /// Sum of the computed gradients; `None` while an operation that reaches the node adds to it.
    sum: Option<Tensor>,
    /// A term that is not computed yet.
    term: Option<Box<dyn PendingTerm>>,
}

/// Nodes that wait for their turn, each with its output's gradient so far.
#[derive(Default)]
struct QueuedNodes {
    /// By sequence number.
    gradients: HashMap<u64, QueuedGradient>,
    order: BinaryHeap<BySequence>,
}

impl QueuedNodes {
    /// The newest node and its gradient.
    fn pop(&mut self) -> Option<(Arc<Node>, QueuedGradient)> {
        let BySequence(node) = self.order.pop()?;
        let gradient = self.gradients.remove(&node.sequence).expect("a node is queued with its gradient");
        Some((node, gradient))
    }

    /// Takes the sum of a node, which `add` must give back.
    fn take_sum(&mut self, node: &Node) -> GradientSum {
        let queued = self.gradients.get_mut(&node.sequence);
        let accepts_term = node.joins() && queued.as_ref().is_none_or(|queued| queued.term.is_none());
        GradientSum { sum: queued.and_then(|queued| queued.sum.take()), accepts_term, term: None }
    }

    /// The gradient of a node's output; queues the node the first time.
    fn gradient_of(&mut self, node: &Arc<Node>) -> &mut QueuedGradient {
        match self.gradients.entry(node.sequence) {
            Entry::Occupied(gradient) => gradient.into_mut(),
            Entry::Vacant(gradient) => {
                self.order.push(BySequence(node.clone()));
                gradient.insert(QueuedGradient::default())
            }
        }
    }

    /// Adds to a node's gradient.
    fn add(&mut self, node: &Arc<Node>, grad: Tensor) -> Result<()> {
        let gradient = self.gradient_of(node);
        gradient.sum = Some(match gradient.sum.take() {
            Some(sum) => sum.accumulate(grad)?,
            None => grad,
        });
        Ok(())
    }

    /// Adds a term to a node's gradient that is not computed yet.
    fn add_term(&mut self, node: &Arc<Node>, term: Box<dyn PendingTerm>) {
        self.gradient_of(node).term = Some(term);
    }
}

fn run_backward(root: &Arc<Node>, upstream: Tensor) -> Result<()> {
    let mut pending = count_leaf_edges(root);
    let mut leaf_sums: HashMap<*const Leaf, Tensor> = HashMap::new();
    let mut queue = QueuedNodes::default();
    queue.add(root, upstream)?;
    while let Some((node, QueuedGradient { sum: grad, term })) = queue.pop() {
        let needs: Vec<bool> = node.inputs.iter().map(|g| !matches!(g, AutogradMeta::None)).collect();
        let mut sums: Vec<GradientSum> = node.inputs.iter().map(|_| GradientSum::default()).collect();
        if node.accumulates() {
            for (sum, input) in sums.iter_mut().zip(&node.inputs) {
                if let AutogradMeta::Node(n) = input {
                    *sum = queue.take_sum(n);
                }
            }
        }
        let grads = match (term, grad) {
            (Some(term), sum) => node.differentiate_joined(&*term, sum, &needs)?,
            (None, grad) => {
                let grad = grad.expect("every operation gives back the sums that it takes");
                let grad = node.hooks.apply(grad)?;
                match node.passes_low_precision_grad(&grad) {
                    true => vec![Some(grad)],
                    false => node.differentiate(grad, &needs, &mut sums, false)?,
                }
            }
        };
        for ((input, grad), GradientSum { sum, term, .. }) in node.inputs.iter().zip(grads).zip(sums) {
            match (input, grad) {
                (AutogradMeta::Node(n), grad) => {
                    for grad in sum.into_iter().chain(grad) {
                        n.check_shape(&grad, node.op);
                        queue.add(n, grad)?;
                    }
                    if let Some(term) = term {
                        queue.add_term(n, term);
                    }
                }
                (AutogradMeta::Leaf(leaf), grad) => {
                    add_leaf_contribution(leaf, grad, &mut pending, &mut leaf_sums)?
                }
                _ => {}
            }
        }
    }
    // Leaves with branches that no gradient reached.
    for (_, (leaf, uses)) in pending {
        if uses > 0
            && let Some(sum) = leaf_sums.remove(&Arc::as_ptr(&leaf))
        {
            accumulate_grad(&leaf, sum)?;
        }
    }
    Ok(())
}

/// Adds one contribution to a leaf's gradient; the last one completes it.
fn add_leaf_contribution(
    leaf: &Arc<Leaf>,
    grad: Option<Tensor>,
    pending: &mut HashMap<*const Leaf, (Arc<Leaf>, usize)>,
    sums: &mut HashMap<*const Leaf, Tensor>,
) -> Result<()> {
    let id = Arc::as_ptr(leaf);
    let mut sum = sums.remove(&id);
    if let Some(grad) = grad {
        sum = Some(match sum {
            Some(sum) => add_in_leaf_dtype(leaf, sum, grad)?,
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
        (Some(sum), _) => accumulate_grad(leaf, sum),
        (None, _) => Ok(()),
    }
}

/// The number of edges of the graph that lead to each leaf.
fn count_leaf_edges(root: &Arc<Node>) -> HashMap<*const Leaf, (Arc<Leaf>, usize)> {
    let mut uses: HashMap<*const Leaf, (Arc<Leaf>, usize)> = HashMap::new();
    let mut seen = std::collections::HashSet::from([root.sequence]);
    let mut stack = vec![root.clone()];
    while let Some(node) = stack.pop() {
        for input in &node.inputs {
            match input {
                AutogradMeta::Leaf(leaf) => uses.entry(Arc::as_ptr(leaf)).or_insert((leaf.clone(), 0)).1 += 1,
                AutogradMeta::Node(n) if seen.insert(n.sequence) => stack.push(n.clone()),
                _ => {}
            }
        }
    }
    uses
}

/// The sum of two gradients of a leaf; those in half precision are cast to the leaf's dtype first.
fn add_in_leaf_dtype(leaf: &Leaf, sum: Tensor, grad: Tensor) -> Result<Tensor> {
    sum.to_dtype(leaf.dtype)?.accumulate(grad.to_dtype(leaf.dtype)?)
}

/// Adds the complete gradient of a backward pass to the leaf's accumulated one, and runs its hooks.
fn accumulate_grad(leaf: &Arc<Leaf>, grad: Tensor) -> Result<()> {
    let grad = leaf.gradient_hooks.apply(grad)?;
    let total = {
        let mut slot = leaf.grad.lock().unwrap_or_else(|e| e.into_inner());
        let total = match slot.take() {
            Some(old) => add_in_leaf_dtype(leaf, old, grad)?,
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
