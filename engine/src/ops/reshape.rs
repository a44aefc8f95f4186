//! Views: the same elements under another shape, and slices of the first axis.
use crate::{Error, Result, Shape, Tensor};

impl Tensor {
    /// The same elements, row-major, under another shape of as many elements. No copy.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if shape.numel() != self.numel() {
            return Err(Error::shape(
                "reshape",
                &[("self", self)],
                format!("shape {shape} has another number of elements"),
            ));
        }
        let from = *self.shape();
        Ok(self.view(0, shape).with_composed_backward("reshape", &[self], || {
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.reshape(from)?)])
        }))
    }

    /// All axes from `axis` on as one: `[N, H, W, C]` becomes `[N, H*W*C]` for `axis` 1. No copy.
    pub fn flatten(&self, axis: usize) -> Result<Tensor> {
        if axis >= self.rank() {
            return Err(Error::shape("flatten", &[("self", self)], format!("there is no axis {axis}")));
        }
        let mut dims = self.dims()[..axis].to_vec();
        dims.push(self.dims()[axis..].iter().product());
        self.reshape(dims)
    }
}
