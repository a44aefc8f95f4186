//! Operations from outside of the crate.
use super::no_second_derivative;
use crate::autograd::{
    Derivative, Gradients, Saved, Saves, is_grad_enabled, no_grad, recomputed_gradients, track,
};
use crate::cuda::Gpu;
use crate::{Device, Error, Result, Tensor};

/// Function of a custom operation's operands.
pub type Composition<O> = fn(&O, &[Tensor]) -> Result<Tensor>;

/// An operation with a gradient of its own, from outside of the crate: forward and backward pass by [`Kernel`](super::Kernel)s, or by operations.
///
/// ```
/// use fornax_engine::op::{CustomOp, Kernel, SavedTensors};
/// use fornax_engine::{DType::F32, Result, Tensor};
///
/// static FORWARD: Kernel = Kernel::new("cubed")
///     .template("T", [F32])
///     .input("x", "T[..]")
///     .output("y", "T like x")
///     .body("y = x * x * x;");
/// static BACKWARD: Kernel = Kernel::new("cubed_backward")
///     .template("T", [F32])
///     .input("x", "T[..]")
///     .input("dy", "T like x")
///     .output("dx", "T like x")
///     .body("dx = 3 * x * x * dy;");
///
/// struct Cubed;
///
/// impl CustomOp for Cubed {
///     const NAME: &'static str = "cubed";
///     const SAVED_OPERANDS: &'static [usize] = &[0];
///
///     fn forward(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
///         FORWARD.run(&[&x[0]])
///     }
///
///     fn backward(&self, saved: &SavedTensors, dy: &Tensor, _: &[bool]) -> Result<Vec<Option<Tensor>>> {
///         Ok(vec![Some(BACKWARD.run(&[saved.operand(0), dy])?.remove(0))])
///     }
///
///     fn composition(&self) -> Option<fn(&Cubed, &[Tensor]) -> Result<Tensor>> {
///         Some(|_, x| x[0].square()?.mul(&x[0]))
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let x = Tensor::from_slice(&[1.0f32, -2.0], [2])?.variable();
/// Cubed.apply(&[&x])?.remove(0).sum_all()?.backward()?;
/// assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [3.0, 12.0]);
/// # Ok(()) }
/// ```
pub trait CustomOp: Send + Sync + Sized + 'static {
    /// Name in errors.
    const NAME: &'static str;
    /// Positions of the operands that [`CustomOp::backward`] reads.
    const SAVED_OPERANDS: &'static [usize] = &[];
    /// Positions of the results that [`CustomOp::backward`] reads.
    const SAVED_RESULTS: &'static [usize] = &[];
    /// The operation can be captured in a CUDA graph: it reads nothing on the host and does not wait, as is true for kernels. Otherwise a
    /// capture is an error that names the operation, and a training step that would be captured runs eagerly.
    const CAPTURABLE: bool = true;

    /// The results. Gradients flow to the first one; others are indices, statistics and the like.
    fn forward(&self, x: &[Tensor]) -> Result<Vec<Tensor>>;

    /// The gradients of the operands, in their shapes and dtypes, for the gradient `dy` of the first result; `needs` marks those that are
    /// needed, and the others may be `None`. A write to a saved tensor since the forward pass is an error before this is called.
    fn backward(&self, saved: &SavedTensors, dy: &Tensor, needs: &[bool]) -> Result<Vec<Option<Tensor>>>;

    /// An equal composition of operations for the first result. It gives second derivatives, and tests compare with it. Without it, the
    /// operations in `backward` are differentiated, which is an error where they are kernels or read a result other than the first.
    fn composition(&self) -> Option<Composition<Self>> {
        None
    }

    /// The results of this operation on tensors of one device, the first one in the graph.
    ///
    /// Errors: no operands, operands on different devices, a capture of an operation that cannot be captured, no results; errors of `forward`. In the backward
    /// pass: errors of `backward`, another number of gradients than operands, or a gradient of another shape or dtype than its operand.
    fn apply(self, operands: &[&Tensor]) -> Result<Vec<Tensor>> {
        let named: Vec<_> = operands.iter().map(|t| ("operand", *t)).collect();
        if named.is_empty() {
            return Err(Error::value(Self::NAME, &[], "an operation needs at least one operand"));
        }
        if let Device::Cuda(ordinal) = super::check_device(Self::NAME, &named)?
            && !Self::CAPTURABLE
            && Gpu::get(ordinal).is_ok_and(|gpu| gpu.is_capturing())
        {
            let why = "this operation cannot be captured in a CUDA graph; run the step without one";
            return Err(Error::value(Self::NAME, &named, why));
        }
        let handles: Vec<Tensor> = operands.iter().map(|t| t.detach()).collect();
        let results = no_grad(|| self.forward(&handles))?;
        if results.is_empty() {
            return Err(Error::value(Self::NAME, &named, "forward returned no result"));
        }
        let results = results.iter().map(Tensor::detach).collect();
        Ok(track(Self::NAME, operands, results, CustomDerivative(self)))
    }
}

/// Tensors that a custom operation has saved for its backward pass.
pub struct SavedTensors<'a>(&'a Saved);

impl SavedTensors<'_> {
    /// A saved operand.
    ///
    /// # Panics
    /// If [`CustomOp::SAVED_OPERANDS`] does not name it.
    pub fn operand(&self, i: usize) -> &Tensor {
        self.0.operand(i)
    }

    /// A saved result.
    ///
    /// # Panics
    /// If [`CustomOp::SAVED_RESULTS`] does not name it.
    pub fn result(&self, i: usize) -> &Tensor {
        self.0.result(i)
    }
}

struct CustomDerivative<O>(O);

impl<O: CustomOp> Derivative for CustomDerivative<O> {
    fn saves(&self, _: &[bool]) -> Saves {
        let operands = match self.0.composition() {
            Some(_) => Saves::all_operands(),
            None => Saves::operands(O::SAVED_OPERANDS),
        };
        operands.and_results(O::SAVED_RESULTS)
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        if is_grad_enabled() {
            if let Some(composition) = self.0.composition() {
                let operands: Vec<&Tensor> = (0..needs.len()).map(|i| saved.operand(i)).collect();
                return recomputed_gradients(&operands, &dy, needs, |x| composition(&self.0, x));
            }
            if O::SAVED_RESULTS.iter().any(|i| *i > 0) {
                return Err(no_second_derivative(O::NAME));
            }
        }
        let gradients = self.0.backward(&SavedTensors(saved), &dy, needs)?;
        if gradients.len() != needs.len() {
            let (got, expected) = (gradients.len(), needs.len());
            let why = format!(
                "{}: backward returned {got} gradients for {expected} operands; return one per operand, None for zero",
                O::NAME
            );
            return Err(Error::Autograd { why });
        }
        for (i, gradient) in gradients.iter().enumerate() {
            let (shape, dtype) = (saved.shape(i), saved.dtype(i));
            if let Some(gradient) = gradient.as_ref().filter(|g| *g.shape() != shape || g.dtype() != dtype) {
                let why = format!("the gradient of operand {i} must be {dtype}{shape}, as the operand");
                return Err(Error::shape(O::NAME, &[("gradient", gradient)], why));
            }
        }
        Ok(gradients.into_iter().zip(needs).map(|(g, needed)| g.filter(|_| *needed)).collect())
    }
}
