//! A computation with a gradient of its own, as PyTorch's `autograd.Function`.
use super::{Backward, no_grad, track};
use crate::{Error, Result, Tensor};

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
        let has_second_derivative = saved.iter().all(is_input);
        let versions = saved.clone();
        let versions: Vec<&Tensor> = versions.iter().collect();
        let expected: Vec<_> = inputs.iter().map(|t| (*t.shape(), t.dtype())).collect();
        let function = move |grad: Tensor, needs: &[bool]| {
            let grads = backward(&saved, &grad)?;
            if grads.len() != expected.len() {
                let why = format!(
                    "with_gradient: backward returned {} gradients for {} inputs; return one per input, None for zero",
                    grads.len(),
                    expected.len()
                );
                return Err(Error::Autograd { why });
            }
            for (i, (grad, (shape, dtype))) in grads.iter().zip(&expected).enumerate() {
                if let Some(grad) =
                    grad.as_ref().filter(|grad| grad.shape() != shape || grad.dtype() != *dtype)
                {
                    let why = format!("the gradient of input {i} must be {dtype}{shape}, as the input");
                    return Err(Error::shape("with_gradient", &[("gradient", grad)], why));
                }
            }
            Ok(grads.into_iter().zip(needs).map(|(grad, need)| grad.filter(|_| *need)).collect())
        };
        let meta = track("with_gradient", *y.shape(), inputs, &versions, || match has_second_derivative {
            true => Backward::Composed(Box::new(function)),
            false => Backward::Once(Box::new(function)),
        });
        Ok(y.with_autograd_meta(meta))
    }
}
