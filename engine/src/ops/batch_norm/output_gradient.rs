//! The gradient of a batch norm's output, as its backward pass receives it.
use crate::autograd::{BackwardFn, FusedBackward, JoiningBackwardFn, PendingTerm};
use crate::ops::conv::gradients::InputGradient;
use crate::{Result, Tensor};
use std::any::Any;
use std::sync::Arc;

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

/// A backward function for computed gradients and, if it `joins`, for those whose last term is not computed yet. Without a `composition` it
/// has no derivative.
pub(super) fn fused_backward<F>(
    backward: F,
    joins: bool,
    composition: Option<Box<BackwardFn>>,
) -> FusedBackward
where
    F: Fn(OutputGradient, &[bool]) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
{
    let backward = Arc::new(backward);
    let joining = joins.then(|| {
        let backward = backward.clone();
        Box::new(move |term: &dyn PendingTerm, sum: Option<Tensor>, needs: &[bool]| {
            backward(OutputGradient::of_term(term, sum)?, needs)
        }) as Box<JoiningBackwardFn>
    });
    let kernels = move |grad: Tensor, needs: &[bool]| backward(OutputGradient::Computed(grad), needs);
    FusedBackward { kernels: Box::new(kernels), composition, joining }
}
