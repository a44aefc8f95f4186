//! The way back that returns the gradients of chosen tensors, and can leave a graph behind them.
use super::leaf_backward::check_upstream;
use super::{AutogradMeta, Node, with_grad_enabled};
use crate::{Error, Result, Tensor};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The gradients of `sum(output * upstream)`, over all pairs of the two, with respect to `inputs`: variables, or results of operations.
/// `None` for what no output depends on. Nothing is added to [`Tensor::grad`], and no hook is called.
///
/// With `create_graph` the gradients can be differentiated in turn, and the graph that they were computed from stays. An operation
/// that cannot be differentiated twice is an error then. Without it that graph is freed, as by [`Tensor::backward`].
///
/// ```
/// use fornax_engine::{Result, Tensor, gradients};
/// # fn main() -> Result<()> {
/// let x = Tensor::from_slice(&[1.0f64, 2.0], [2])?.variable();
/// let one = Tensor::scalar(1.0f64)?;
/// let y = x.powf(3.0)?.sum_all()?;
/// let slope = gradients(&[(&y, &one)], &[&x], true)?.remove(0).unwrap();
/// assert_eq!(slope.to_vec::<f64>()?, [3.0, 12.0]);
/// // The Hessian times a vector: the gradient of the slope times the vector.
/// let v = Tensor::from_slice(&[1.0f64, -1.0], [2])?;
/// let product = gradients(&[(&slope, &v)], &[&x], false)?.remove(0).unwrap();
/// assert_eq!(product.to_vec::<f64>()?, [6.0, -12.0]);
/// # Ok(()) }
/// ```
///
/// Errors: an upstream gradient has not its output's shape and dtype, an input requires no gradient, or the graph was freed before.
pub fn gradients(
    outputs: &[(&Tensor, &Tensor)],
    inputs: &[&Tensor],
    create_graph: bool,
) -> Result<Vec<Option<Tensor>>> {
    outputs.iter().try_for_each(|(output, upstream)| check_upstream(output, upstream))?;
    if let Some(i) = inputs.iter().position(|t| !t.requires_grad()) {
        return Err(Error::Autograd { why: format!("input {i} of gradients requires none") });
    }
    let wanted: HashSet<GradientKey> =
        inputs.iter().filter_map(|t| GradientKey::of(t.autograd_meta())).collect();
    let path = Subgraph::new(outputs.iter().map(|(output, _)| *output), wanted);
    with_grad_enabled(create_graph, || {
        let mut sums = GradientSums::default();
        for (output, upstream) in outputs {
            let upstream = if create_graph { (*upstream).clone() } else { upstream.detach() };
            path.add(output.autograd_meta(), upstream, &mut sums)?;
        }
        for node in path.nodes.iter().rev() {
            let place = GradientKey::Node(node.sequence);
            let grad = match path.wanted.contains(&place) {
                true => sums.get(&place).cloned(),
                false => sums.remove(&place),
            };
            let Some(grad) = grad else { continue };
            let needs: Vec<bool> = node.inputs.iter().map(|input| path.needs_gradient(input)).collect();
            let grads = node.differentiate(grad, &needs, create_graph)?;
            for (input, grad) in node.inputs.iter().zip(grads) {
                let Some(grad) = grad else { continue };
                if let AutogradMeta::Node(n) = input {
                    n.check_shape(&grad, node.op);
                }
                path.add(input, grad, &mut sums)?;
            }
        }
        Ok(inputs.iter().map(|t| sums.get(&GradientKey::of(t.autograd_meta())?).cloned()).collect())
    })
}

/// The gradients of `sum(f(inputs) * grad)` with respect to the inputs that need one, by differentiating what `f` is composed of. For a
/// backward function that is to leave a graph: f runs again, on stand-ins for the inputs, so that the way back ends at them.
pub(crate) fn recomputed_gradients(
    inputs: &[&Tensor],
    grad: &Tensor,
    needs: &[bool],
    f: impl FnOnce(&[Tensor]) -> Result<Tensor>,
) -> Result<Vec<Option<Tensor>>> {
    let stand_ins: Vec<Tensor> = inputs.iter().map(|t| t.reshape(*t.shape())).collect::<Result<_>>()?;
    let y = f(&stand_ins)?;
    let wanted: Vec<&Tensor> =
        stand_ins.iter().zip(needs).filter_map(|(t, need)| need.then_some(t)).collect();
    let mut grads = gradients(&[(&y, grad)], &wanted, true)?.into_iter();
    Ok(needs.iter().map(|need| if *need { grads.next().flatten() } else { None }).collect())
}

/// What a gradient belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum GradientKey {
    /// A variable, by its address.
    Leaf(usize),
    /// The output of an operation, by its number.
    Node(u64),
}

impl GradientKey {
    fn of(gradient: &AutogradMeta) -> Option<GradientKey> {
        match gradient {
            AutogradMeta::None => None,
            AutogradMeta::Leaf(leaf) => Some(GradientKey::Leaf(Arc::as_ptr(leaf) as usize)),
            AutogradMeta::Node(node) => Some(GradientKey::Node(node.sequence)),
        }
    }
}

/// Gradients as far as they are added up.
type GradientSums = HashMap<GradientKey, Tensor>;

/// The operations between outputs and what is wanted.
struct Subgraph {
    wanted: HashSet<GradientKey>,
    /// In order of creation.
    nodes: Vec<Arc<Node>>,
    /// Their numbers.
    sequences: HashSet<u64>,
}

impl Subgraph {
    fn new<'a>(outputs: impl Iterator<Item = &'a Tensor>, wanted: HashSet<GradientKey>) -> Subgraph {
        // Operations before all that is wanted lead nowhere, unless variables are wanted, which have no place in the order.
        let number = |place: &GradientKey| if let GradientKey::Node(number) = place { *number } else { 0 };
        let first = wanted.iter().map(number).min().unwrap_or_default();
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
        let mut path = Subgraph { wanted, nodes: vec![], sequences: HashSet::new() };
        for node in nodes {
            if node.inputs.iter().any(|input| path.needs_gradient(input)) {
                path.sequences.insert(node.sequence);
                path.nodes.push(node);
            }
        }
        path
    }

    /// True for what is wanted, and for what depends on it.
    fn needs_gradient(&self, gradient: &AutogradMeta) -> bool {
        let Some(place) = GradientKey::of(gradient) else { return false };
        self.wanted.contains(&place) || matches!(place, GradientKey::Node(n) if self.sequences.contains(&n))
    }

    fn add(&self, to: &AutogradMeta, grad: Tensor, sums: &mut GradientSums) -> Result<()> {
        if let Some(place) = GradientKey::of(to).filter(|_| self.needs_gradient(to)) {
            let sum = match sums.remove(&place) {
                Some(sum) => sum.accumulate(grad)?,
                None => grad,
            };
            sums.insert(place, sum);
        }
        Ok(())
    }
}
