//! The backward pass that returns the gradients of chosen tensors, as `torch.autograd.grad`.
use super::leaf_backward::check_upstream;
use super::{AutogradMeta, GradientSum, Node, is_grad_enabled, with_grad_enabled};
use crate::{Error, Result, Tensor};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The gradients of `sum(output * upstream)`, over all pairs, with respect to `inputs`: variables, or results of operations. An input
/// that no output depends on gets `None`. Nothing is added to [`Tensor::grad`]. Hooks of [`Tensor::register_hook`] are called.
///
/// With `create_graph` the gradients are tracked and can be differentiated again, and the graph they were computed from is retained;
/// an operation without a second derivative is then an error. Without it the graph is freed, as by [`Tensor::backward`].
///
/// ```
/// use fornax_engine::{Result, Tensor, gradients};
/// # fn main() -> Result<()> {
/// let x = Tensor::from_slice(&[1.0f64, 2.0], [2])?.variable();
/// let one = Tensor::scalar(1.0f64)?;
/// let y = x.powf(3.0)?.sum_all()?;
/// let gradient = gradients(&[(&y, &one)], &[&x], true)?.remove(0).unwrap();
/// assert_eq!(gradient.to_vec::<f64>()?, [3.0, 12.0]);
/// // Hessian-vector product: the gradient of sum(gradient * v).
/// let v = Tensor::from_slice(&[1.0f64, -1.0], [2])?;
/// let hvp = gradients(&[(&gradient, &v)], &[&x], false)?.remove(0).unwrap();
/// assert_eq!(hvp.to_vec::<f64>()?, [6.0, -12.0]);
/// # Ok(()) }
/// ```
///
/// Errors: the shape or dtype of an upstream gradient differs from its output's, an input requires no gradient, or the graph was freed.
pub fn gradients(
    outputs: &[(&Tensor, &Tensor)],
    inputs: &[&Tensor],
    create_graph: bool,
) -> Result<Vec<Option<Tensor>>> {
    outputs.iter().try_for_each(|(output, upstream)| check_upstream(output, upstream))?;
    if let Some(i) = inputs.iter().position(|t| !t.requires_grad()) {
        return Err(Error::Autograd { why: format!("input {i} of gradients does not require a gradient") });
    }
    let wanted: HashSet<GradientKey> =
        inputs.iter().filter_map(|t| GradientKey::of(t.autograd_meta())).collect();
    let graph = Subgraph::new(outputs.iter().map(|(output, _)| *output), wanted);
    with_grad_enabled(create_graph, || {
        let mut sums = GradientSums::default();
        for (output, upstream) in outputs {
            let upstream = if create_graph { (*upstream).clone() } else { upstream.detach() };
            graph.add(output.autograd_meta(), upstream, &mut sums)?;
        }
        for node in graph.nodes.iter().rev() {
            let key = GradientKey::Node(node.sequence);
            let Some(grad) = sums.remove(&key) else { continue };
            let grad = node.hooks.apply(grad)?;
            if graph.wanted.contains(&key) {
                sums.insert(key, grad.clone());
            }
            let needs: Vec<bool> = node.inputs.iter().map(|input| graph.needs_gradient(input)).collect();
            let offers_sums = !create_graph && node.accumulates();
            let mut take_sum = |input: &AutogradMeta| {
                GradientKey::of(input).filter(|_| offers_sums).and_then(|key| sums.remove(&key))
            };
            let mut taken: Vec<GradientSum> = (node.inputs.iter())
                .map(|input| GradientSum { sum: take_sum(input), ..GradientSum::default() })
                .collect();
            let grads = node.differentiate(grad, &needs, &mut taken, create_graph)?;
            for ((input, grad), GradientSum { sum, .. }) in node.inputs.iter().zip(grads).zip(taken) {
                for grad in sum.into_iter().chain(grad) {
                    if let AutogradMeta::Node(n) = input {
                        n.check_shape(&grad, node.op);
                    }
                    graph.add(input, grad, &mut sums)?;
                }
            }
        }
        inputs.iter().map(|t| graph.final_gradient(t.autograd_meta(), &sums)).collect()
    })
}

/// The gradients of `sum(f(inputs) * grad)` with respect to the inputs that need one, tracked if gradients are. `f` is recomputed from
/// operations, on views of the inputs, at which the backward pass stops.
pub(crate) fn recomputed_gradients(
    inputs: &[&Tensor],
    grad: &Tensor,
    needs: &[bool],
    f: impl FnOnce(&[Tensor]) -> Result<Tensor>,
) -> Result<Vec<Option<Tensor>>> {
    let create_graph = is_grad_enabled();
    with_grad_enabled(true, || {
        let view = |(t, need): (&&Tensor, &bool)| match create_graph {
            true => t.reshape(*t.shape()),
            false if *need => Ok(t.detach().variable()),
            false => Ok(t.detach()),
        };
        let views: Vec<Tensor> = inputs.iter().zip(needs).map(view).collect::<Result<_>>()?;
        let y = f(&views)?;
        let wanted: Vec<&Tensor> =
            views.iter().zip(needs).filter_map(|(t, need)| need.then_some(t)).collect();
        let mut grads = gradients(&[(&y, grad)], &wanted, create_graph)?.into_iter();
        Ok(needs.iter().map(|need| if *need { grads.next().flatten() } else { None }).collect())
    })
}

/// Identity of the tensor that a gradient belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum GradientKey {
    /// A variable, by its address.
    Leaf(usize),
    /// The output of an operation, by its sequence number.
    Node(u64),
}

impl GradientKey {
    fn of(meta: &AutogradMeta) -> Option<GradientKey> {
        match meta {
            AutogradMeta::None => None,
            AutogradMeta::Leaf(leaf) => Some(GradientKey::Leaf(Arc::as_ptr(leaf) as usize)),
            AutogradMeta::Node(node) => Some(GradientKey::Node(node.sequence)),
        }
    }
}

/// Partial sums of gradients.
type GradientSums = HashMap<GradientKey, Tensor>;

/// The operations on the paths from the outputs to the wanted tensors.
struct Subgraph {
    wanted: HashSet<GradientKey>,
    /// Operations in order of creation.
    nodes: Vec<Arc<Node>>,
    /// Their sequence numbers.
    sequences: HashSet<u64>,
}

impl Subgraph {
    fn new<'a>(outputs: impl Iterator<Item = &'a Tensor>, wanted: HashSet<GradientKey>) -> Subgraph {
        // Operations older than every wanted one cannot depend on it. Variables have no sequence number, and exclude nothing.
        let sequence = |key: &GradientKey| if let GradientKey::Node(sequence) = key { *sequence } else { 0 };
        let first = wanted.iter().map(sequence).min().unwrap_or_default();
        let mut seen = HashSet::new();
        let mut stack: Vec<AutogradMeta> = outputs.map(|t| t.autograd_meta().clone()).collect();
        let mut nodes = vec![];
        while let Some(next) = stack.pop() {
            if let AutogradMeta::Node(node) = next
                && node.sequence >= first
                && seen.insert(node.sequence)
            {
                stack.extend(node.inputs.iter().cloned());
                nodes.push(node);
            }
        }
        nodes.sort_by_key(|node| node.sequence);
        let mut graph = Subgraph { wanted, nodes: vec![], sequences: HashSet::new() };
        for node in nodes {
            if node.inputs.iter().any(|input| graph.needs_gradient(input)) {
                graph.sequences.insert(node.sequence);
                graph.nodes.push(node);
            }
        }
        graph
    }

    /// True for a wanted tensor, and for every tensor that depends on one.
    fn needs_gradient(&self, meta: &AutogradMeta) -> bool {
        let Some(key) = GradientKey::of(meta) else { return false };
        self.wanted.contains(&key) || matches!(key, GradientKey::Node(n) if self.sequences.contains(&n))
    }

    /// The gradient of a wanted tensor, after its hooks: those of nodes of this graph have run with the node.
    fn final_gradient(&self, meta: &AutogradMeta, sums: &GradientSums) -> Result<Option<Tensor>> {
        let Some(grad) = GradientKey::of(meta).and_then(|key| sums.get(&key)).cloned() else {
            return Ok(None);
        };
        match meta {
            AutogradMeta::Leaf(leaf) => leaf.gradient_hooks.apply(grad).map(Some),
            AutogradMeta::Node(node) if !self.sequences.contains(&node.sequence) => {
                node.hooks.apply(grad).map(Some)
            }
            _ => Ok(Some(grad)),
        }
    }

    fn add(&self, to: &AutogradMeta, grad: Tensor, sums: &mut GradientSums) -> Result<()> {
        if let Some(key) = GradientKey::of(to).filter(|_| self.needs_gradient(to)) {
            let sum = match sums.remove(&key) {
                Some(sum) => sum.accumulate(grad)?,
                None => grad,
            };
            sums.insert(key, sum);
        }
        Ok(())
    }
}
