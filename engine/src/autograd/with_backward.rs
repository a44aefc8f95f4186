//! Adding the result of an operation to the graph with closures as its derivative.
use super::derivative::{Derivative, Gradients, PendingTerm};
use super::saved::{Saved, Saves};
use super::{AutogradMeta, is_grad_enabled, is_tracked, track};
use crate::{Error, Result, Tensor};

/// Backward function of an operation: maps the gradient of its output to the gradients of its inputs. The second argument marks
/// the inputs that need a gradient; the others get `None`.
pub(crate) type BackwardFn = dyn Fn(Tensor, &[bool]) -> Result<Gradients> + Send + Sync;

/// A [`BackwardFn`] whose gradient is the sum of a term and a tensor, if any.
pub(crate) type JoiningBackwardFn =
    dyn Fn(&dyn PendingTerm, Option<Tensor>, &[bool]) -> Result<Gradients> + Send + Sync;

/// Backward function by kernels, with alternatives for some cases.
pub(crate) struct FusedBackward {
    pub(crate) kernels: Box<BackwardFn>,
    /// An equivalent composition of operations that replaces the kernels with `create_graph`; without it, the operation has no second
    /// derivative.
    pub(crate) composition: Option<Box<BackwardFn>>,
    /// The function for a gradient whose last term is not computed yet.
    pub(crate) joining: Option<Box<JoiningBackwardFn>>,
}

/// A [`BackwardFn`] whose first argument is the operation's output.
type OutputBackwardFn = dyn Fn(&Tensor, Tensor, &[bool]) -> Result<Gradients> + Send + Sync;

/// Derivative by closures, which hold their saved tensors themselves.
struct ClosureDerivative {
    op: &'static str,
    /// The closures may hold inputs, whose versions are checked.
    holds_inputs: bool,
    function: Closures,
}

/// The functions of a [`ClosureDerivative`].
enum Closures {
    /// A composition of operations, on saved tensors that are still in the graph: derivatives of any order.
    Composed(Box<BackwardFn>),
    /// Kernels, with alternatives.
    Fused(FusedBackward),
    /// A function of the operation's own output, which is passed to it.
    FromOutput(Box<OutputBackwardFn>),
}

impl Derivative for ClosureDerivative {
    fn saves(&self, needs: &[bool]) -> Saves {
        let saves = if self.holds_inputs { Saves::versions_of(needs.len()) } else { Saves::default() };
        if let Closures::FromOutput(_) = self.function { saves.and_results(&[0]) } else { saves }
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        let create_graph = is_grad_enabled();
        match &self.function {
            Closures::Fused(FusedBackward { composition: None, .. }) if create_graph => {
                Err(no_second_derivative(self.op))
            }
            Closures::Composed(f) => f(dy, needs),
            Closures::Fused(FusedBackward { composition: Some(f), .. }) if create_graph => f(dy, needs),
            Closures::Fused(FusedBackward { kernels, .. }) => kernels(dy, needs),
            Closures::FromOutput(f) => f(saved.result(0), dy, needs),
        }
    }

    fn joins(&self) -> bool {
        matches!(self.function, Closures::Fused(FusedBackward { joining: Some(_), .. }))
    }

    fn backward_joined(
        &self,
        saved: &Saved,
        term: &dyn PendingTerm,
        sum: Option<Tensor>,
        needs: &[bool],
    ) -> Result<Gradients> {
        match &self.function {
            Closures::Fused(FusedBackward { joining: Some(f), .. }) => f(term, sum, needs),
            _ => self.backward(saved, term.add_to(sum)?, needs),
        }
    }
}

/// Used by operations.
impl Tensor {
    /// Adds this result of an operation to the graph. `make` builds the backward function, and is called only if the operation is
    /// tracked. The function is differentiable itself: it is composed of differentiable operations, and saves its tensors without detaching
    /// them.
    pub(crate) fn with_composed_backward<F>(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        make: impl FnOnce() -> F,
    ) -> Tensor
    where
        F: Fn(Tensor, &[bool]) -> Result<Gradients> + Send + Sync + 'static,
    {
        self.with_closures(op, inputs, holds_tensors::<F>(), || Closures::Composed(Box::new(make())))
    }

    /// As [`Tensor::with_composed_backward`] by `kernels`, with a second backward function `composition`, which replaces them with
    /// `create_graph`. It should save only tensors that are alive anyway.
    pub(crate) fn with_fused_backward<F, G>(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        kernels: impl FnOnce() -> F,
        composition: impl FnOnce() -> G,
    ) -> Tensor
    where
        F: Fn(Tensor, &[bool]) -> Result<Gradients> + Send + Sync + 'static,
        G: Fn(Tensor, &[bool]) -> Result<Gradients> + Send + Sync + 'static,
    {
        self.with_closures(op, inputs, holds_tensors::<(F, G)>(), || {
            Closures::Fused(FusedBackward {
                kernels: Box::new(kernels()),
                composition: Some(Box::new(composition())),
                joining: None,
            })
        })
    }

    /// As [`Tensor::with_composed_backward`], for a backward function that needs the output, which is its first argument. With
    /// `create_graph` that output requires a gradient.
    pub(crate) fn with_output_backward<F>(self, op: &'static str, inputs: &[&Tensor], backward: F) -> Tensor
    where
        F: Fn(&Tensor, Tensor, &[bool]) -> Result<Gradients> + Send + Sync + 'static,
    {
        self.with_closures(op, inputs, false, || Closures::FromOutput(Box::new(backward)))
    }

    /// Adds tensors that this operation has saved for its backward pass besides its inputs: writing to them before that pass makes it an
    /// error.
    pub(crate) fn with_saved(self, tensors: &[&Tensor]) -> Tensor {
        if let AutogradMeta::Node(node) = self.autograd_meta() {
            node.add_saved_versions(tensors);
        }
        self
    }

    fn with_closures(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        holds_inputs: bool,
        make: impl FnOnce() -> Closures,
    ) -> Tensor {
        if !is_tracked(inputs) {
            return self;
        }
        let derivative = ClosureDerivative { op, holds_inputs, function: make() };
        track(op, inputs, vec![self], derivative).swap_remove(0)
    }
}

/// True if a closure may hold tensors: it captures more than shapes and numbers.
fn holds_tensors<F>() -> bool {
    std::mem::needs_drop::<F>()
}

fn no_second_derivative(op: &str) -> Error {
    Error::Autograd {
        why: format!("{op} has no second derivative; call gradients with create_graph = false"),
    }
}
