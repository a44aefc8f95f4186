//! A computation with a gradient of its own, as PyTorch's `autograd.Function`.
use super::{Derivative, Gradients, Saved, Saves, is_grad_enabled, no_grad, track};
use crate::op::no_second_derivative;
use crate::{DType, Error, Result, Shape, Tensor};

impl Tensor {
    /// `forward(saved, inputs)`, with the gradient that `backward(saved, grad)` computes instead of the gradient of the operations in
    /// `forward`, as PyTorch's `autograd.Function`. `forward` runs untracked. It appends the tensors that `backward` needs to `saved`;
    /// a write to one of them before the backward pass makes that pass an error. `backward` is passed the saved tensors
    /// and the gradient of the output, and returns one gradient per input, in the input's shape and dtype, or `None` for a gradient of
    /// zero.
    ///
    /// A straight-through estimator:
    ///
    /// ```
    /// use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let x = Tensor::from_slice(&[-0.7f32, 0.2, 1.6], [3])?.variable();
    /// let y = Tensor::with_gradient(
    ///     &[&x],
    ///     |_, x| x[0].greater(0.0),
    ///     |_, grad| Ok(vec![Some(grad.clone())]),
    /// )?;
    /// assert_eq!(y.to_vec::<f32>()?, [0.0, 1.0, 1.0]);
    /// y.sum_all()?.backward()?;
    /// assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [1.0, 1.0, 1.0]);
    /// # Ok(()) }
    /// ```
    ///
    /// With `create_graph` ([`gradients`](crate::gradients())) the operations in `backward` are tracked, so second derivatives follow, if
    /// `saved` has inputs only. A saved tensor that `forward` has computed depends on the inputs in a way that the graph does not contain:
    /// a second derivative is then an error.
    ///
    /// Errors: errors of `forward`. In the backward pass: errors of `backward`, a number of gradients that is not the number of inputs, or a
    /// gradient in another shape or dtype than its input.
    pub fn with_gradient<F, B>(inputs: &[&Tensor], forward: F, backward: B) -> Result<Tensor>
    where
        F: FnOnce(&mut Vec<Tensor>, &[Tensor]) -> Result<Tensor>,
        B: Fn(&[Tensor], &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
    {
        let handles: Vec<Tensor> = inputs.iter().map(|t| (*t).clone()).collect();
        let mut saved = vec![];
        let y = no_grad(|| forward(&mut saved, &handles))?.detach();
        let is_input = |t: &Tensor| handles.iter().any(|input| t.is_same_handle(input));
        let derivative = OwnGradient {
            has_second_derivative: saved.iter().all(is_input),
            expected: inputs.iter().map(|t| (*t.shape(), t.dtype())).collect(),
            saved,
            backward,
        };
        Ok(track("with_gradient", inputs, vec![y], derivative).swap_remove(0))
    }
}

/// Derivative by a closure of tensors.
struct OwnGradient<B> {
    saved: Vec<Tensor>,
    backward: B,
    /// Shapes and dtypes of the inputs.
    expected: Vec<(Shape, DType)>,
    has_second_derivative: bool,
}

impl<B> Derivative for OwnGradient<B>
where
    B: Fn(&[Tensor], &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
{
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::default()
    }

    fn holds(&self) -> Vec<&Tensor> {
        self.saved.iter().collect()
    }

    fn backward(&self, _: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        if is_grad_enabled() && !self.has_second_derivative {
            return Err(no_second_derivative("with_gradient"));
        }
        let grads = (self.backward)(&self.saved, &dy)?;
        if grads.len() != self.expected.len() {
            let why = format!(
                "with_gradient: backward returned {} gradients for {} inputs; return one per input, None for zero",
                grads.len(),
                self.expected.len()
            );
            return Err(Error::Autograd { why });
        }
        for (i, (grad, (shape, dtype))) in grads.iter().zip(&self.expected).enumerate() {
            if let Some(grad) = grad.as_ref().filter(|grad| grad.shape() != shape || grad.dtype() != *dtype) {
                let why = format!("the gradient of input {i} must be {dtype}{shape}, as the input");
                return Err(Error::shape("with_gradient", &[("gradient", grad)], why));
            }
        }
        Ok(grads.into_iter().zip(needs).map(|(grad, need)| grad.filter(|_| *need)).collect())
    }
}
