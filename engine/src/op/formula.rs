//! Derivatives that are formulas of saved tensors.
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::{Result, Tensor};

/// Derivative by a formula of the saved tensors and the gradient of the result.
pub(crate) struct Formula<F> {
    saves: fn(&[bool]) -> Saves,
    backward: F,
}

impl<F> Formula<F>
where
    F: Fn(&Saved, &Tensor, &[bool]) -> Result<Gradients> + Send + Sync + 'static,
{
    /// The formula `backward`, which reads the tensors of `saves`.
    pub(crate) fn new(saves: fn(&[bool]) -> Saves, backward: F) -> Formula<F> {
        Formula { saves, backward }
    }
}

impl<F> Derivative for Formula<F>
where
    F: Fn(&Saved, &Tensor, &[bool]) -> Result<Gradients> + Send + Sync + 'static,
{
    fn saves(&self, needs: &[bool]) -> Saves {
        (self.saves)(needs)
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        (self.backward)(saved, &dy, needs)
    }
}
