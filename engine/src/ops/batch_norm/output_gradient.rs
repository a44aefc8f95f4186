//! The gradient of a batch norm's output, as its backward pass receives it.
use crate::autograd::PendingTerm;
use crate::ops::conv::gradients::InputGradient;
use crate::{Result, Tensor};
use std::any::Any;

/// Gradient of a batch norm's output.
pub(super) enum OutputGradient<'a> {
    /// A tensor.
    Computed(Tensor),
    /// The gradient of a convolution's input, which is not computed yet, plus a tensor if there is one.
    Joined(&'a InputGradient, Option<Tensor>),
}

impl<'a> OutputGradient<'a> {
    /// The gradient `term + sum`. Terms of other operations than convolutions are computed.
    pub(super) fn of_term(term: &'a dyn PendingTerm, sum: Option<Tensor>) -> Result<OutputGradient<'a>> {
        match (term as &dyn Any).downcast_ref::<InputGradient>() {
            Some(term) => Ok(OutputGradient::Joined(term, sum)),
            None => Ok(OutputGradient::Computed(term.add_to(sum)?)),
        }
    }

    /// The gradient as a tensor.
    pub(super) fn compute(self) -> Result<Tensor> {
        match self {
            OutputGradient::Computed(grad) => Ok(grad),
            OutputGradient::Joined(term, sum) => term.add_to(sum),
        }
    }
}
