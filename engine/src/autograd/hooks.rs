//! Hooks: functions that a backward pass calls with the gradient of a tensor.
use super::AutogradMeta;
use crate::{Error, Result, Tensor};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Function that is called with the gradient of a tensor, and may return a gradient that replaces it.
pub type GradientHook = Box<dyn Fn(&Tensor) -> Result<Option<Tensor>> + Send + Sync>;

/// Function that is called with a variable's accumulated gradient once a backward pass has added all of its own.
pub type Hook = Box<dyn Fn(&Tensor) -> Result<()> + Send + Sync>;

impl Tensor {
    /// Registers a hook on the gradient of this tensor, a variable or the result of an operation, as PyTorch's `Tensor.register_hook`.
    /// Every backward pass that reaches the tensor, by [`Tensor::backward`] or [`gradients`](crate::gradients()), calls it once with the
    /// complete gradient of that pass, before the operation that made the tensor is differentiated, or before the gradient is added to
    /// [`Tensor::grad`]. A returned tensor of the same shape and dtype replaces the gradient. Hooks run in the order of registration, each
    /// on the result of the one before it.
    ///
    /// ```
    /// use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let x = Tensor::from_slice(&[1.0f32, 2.0], [2])?.variable();
    /// let y = x.square()?;
    /// y.register_hook(Box::new(|grad| grad.mul_scalar(10.0).map(Some)))?;
    /// y.sum_all()?.backward()?;
    /// assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [20.0, 40.0]);
    /// # Ok(()) }
    /// ```
    ///
    /// Errors: the tensor requires no gradient. In the backward pass: an error of the hook, or a gradient of another shape or dtype.
    pub fn register_hook(&self, hook: GradientHook) -> Result<()> {
        match self.autograd_meta() {
            AutogradMeta::Leaf(leaf) => leaf.gradient_hooks.push(hook),
            AutogradMeta::Node(node) => node.hooks.push(hook),
            AutogradMeta::None => {
                return Err(Error::Autograd {
                    why: "a hook was registered on a tensor that requires no gradient; register it on a variable or on the result of an \
                          operation on one, outside no_grad"
                        .into(),
                });
            }
        }
        Ok(())
    }

    /// Registers a hook that is called with this variable's accumulated gradient once a backward pass has added all of its own, as
    /// PyTorch's `register_post_accumulate_grad_hook`. [`gradients`](crate::gradients()) accumulates nothing and does not call it.
    ///
    /// Errors: the tensor is not a variable.
    pub fn register_post_accumulate_grad_hook(&self, hook: Hook) -> Result<()> {
        match self.autograd_meta() {
            AutogradMeta::Leaf(leaf) => {
                leaf.hooks.lock().unwrap_or_else(|e| e.into_inner()).push(hook);
                Ok(())
            }
            _ => Err(Error::Autograd {
                why: "only a variable accumulates a gradient, and this tensor is not one; use register_hook"
                    .into(),
            }),
        }
    }
}

/// Gradient hooks of one tensor. Most tensors have none, which costs one atomic load.
#[derive(Default)]
pub(crate) struct GradientHooks(OnceLock<Mutex<Vec<Arc<GradientHook>>>>);

impl GradientHooks {
    pub(super) fn is_empty(&self) -> bool {
        self.0.get().is_none()
    }

    /// The gradient after all hooks.
    pub(super) fn apply(&self, grad: Tensor) -> Result<Tensor> {
        let Some(hooks) = self.0.get() else { return Ok(grad) };
        // A copy of the list: a hook may register another one.
        let hooks = locked(hooks).clone();
        hooks.iter().try_fold(grad, |grad, hook| match hook(&grad)? {
            Some(other) if other.shape() == grad.shape() && other.dtype() == grad.dtype() => Ok(other),
            Some(other) => Err(Error::shape(
                "register_hook",
                &[("gradient", &grad), ("replacement", &other)],
                "the gradient that a hook returns must have the shape and dtype of the gradient that it replaces",
            )),
            None => Ok(grad),
        })
    }

    fn push(&self, hook: GradientHook) {
        locked(self.0.get_or_init(Mutex::default)).push(Arc::new(hook));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
