//! Views of the same elements with another shape.
use crate::autograd::{Derivative, Gradients, Saved};
use crate::op::with_derivative;
use crate::{Axis, Error, IntoShape, Result, Tensor};

impl Tensor {
    /// A view with another shape of as many elements, row-major. No copy. Any dtype.
    pub fn reshape(&self, shape: impl IntoShape) -> Result<Tensor> {
        let shape = shape.into_shape()?;
        if shape.numel() != self.numel() {
            return Err(Error::shape(
                "reshape",
                &[("self", self)],
                format!("shape {shape} has {} elements, not {}", shape.numel(), self.numel()),
            ));
        }
        Ok(with_derivative("reshape", &[self], self.view(0, shape), Reshape))
    }

    /// Flattens all axes from `axis` on: `[N, H, W, C]` becomes `[N, H*W*C]` for `axis` 1. No copy. Any dtype.
    pub fn flatten(&self, axis: impl Axis) -> Result<Tensor> {
        let axis = self.axis("flatten", axis)?;
        let mut dims = self.dims()[..axis].to_vec();
        dims.push(self.dims()[axis..].iter().product());
        self.reshape(dims)
    }
}

struct Reshape;

impl Derivative for Reshape {
    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(dy.reshape(saved.shape(0))?)])
    }
}
