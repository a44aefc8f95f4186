//! Derivatives of operations, as the nodes of the graph hold them.
use super::saved::{Saved, Saves};
use crate::{Result, Tensor};
use std::any::Any;

/// Gradients of an operation's operands: one for each operand that needs one, in the operands' order.
pub(crate) type Gradients = Vec<Option<Tensor>>;

/// Derivative of an operation: maps the gradient of its first result to the gradients of its operands, by operations. Those are tracked with
/// `create_graph`, so a derivative of operations can be differentiated itself.
pub(crate) trait Derivative: Send + Sync + 'static {
    /// Tensors that the backward pass reads; `needs` marks the operands that require a gradient.
    fn saves(&self, _needs: &[bool]) -> Saves {
        Saves::default()
    }

    /// Tensors that the derivative holds itself, whose versions are checked as those of saved tensors.
    fn holds(&self) -> Vec<&Tensor> {
        vec![]
    }

    /// The gradients of the operands that `needs` marks, for the gradient `dy` of the first result.
    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients>;

    /// True if [`Derivative::backward_into`] can add its gradients to sums of gradients.
    fn accumulates(&self) -> bool {
        false
    }

    /// As [`Derivative::backward`], with the state of each operand's gradient. With `create_graph` there are no sums.
    fn backward_into(
        &self,
        saved: &Saved,
        dy: Tensor,
        needs: &[bool],
        _sums: &mut [GradientSum],
    ) -> Result<Gradients> {
        self.backward(saved, dy, needs)
    }

    /// True if [`Derivative::backward_joined`] computes the last term of its gradient together with its own work.
    fn joins(&self) -> bool {
        false
    }

    /// As [`Derivative::backward`] for the gradient `term + sum`.
    fn backward_joined(
        &self,
        saved: &Saved,
        term: &dyn PendingTerm,
        sum: Option<Tensor>,
        needs: &[bool],
    ) -> Result<Gradients> {
        self.backward(saved, term.add_to(sum)?, needs)
    }

    /// True for a cast of its only operand.
    fn is_cast(&self) -> bool {
        false
    }
}

/// Term of a gradient that is left to the next derivative, which may compute it together with its own work.
pub(crate) trait PendingTerm: Any + Send + Sync {
    /// The sum of the term and `sum`.
    fn add_to(&self, sum: Option<Tensor>) -> Result<Tensor>;
}

/// The gradient of an operand to which [`Derivative::backward_into`] contributes.
#[derive(Default)]
pub(crate) struct GradientSum {
    /// Sum of the gradients that other operations have computed so far, if any. A derivative that takes it returns the new sum in place of
    /// its gradient.
    pub(crate) sum: Option<Tensor>,
    /// The derivative of the operation that computed the operand takes a [`GradientSum::term`].
    pub(crate) accepts_term: bool,
    /// The gradient, if it is not computed yet; the derivative then returns none.
    pub(crate) term: Option<Box<dyn PendingTerm>>,
}
