//! Broadcasting to a shape, and its gradient, the sum over broadcast axes.
use super::gpu::OnGpu;
use crate::cpu::binary::BroadcastLayout;
use crate::{Error, IntoShape, Result, Shape, Tensor, cpu, cuda};

impl Tensor {
    /// Broadcasts to `shape` by NumPy's rule, as a dense copy. Any dtype.
    pub fn expand(&self, shape: impl IntoShape) -> Result<Tensor> {
        let shape = shape.into_shape()?;
        if shape == *self.shape() {
            return Ok(self.clone());
        }
        if self.shape().broadcast(&shape)? != Some(shape) {
            return Err(Error::shape("expand", &[("x", self)], format!("does not broadcast to {shape}")));
        }
        let steps = broadcast_steps(self.shape(), &shape);
        let y = match OnGpu::of_any("expand", &[("x", self)])? {
            Some(on) => on.build(shape, self.dtype(), |y| {
                cuda::copy::expand(&on.gpu, self.device_view().slice(), &steps, &shape, y)
            }),
            None => dispatch_any!(self.dtype(), T => {
                let (x, layout) = (self.read::<T>()?, BroadcastLayout::new(&shape, &steps, &steps));
                Tensor::build(shape, |y: &mut [T]| cpu::expand::forward(&layout, &x, y))
            }),
        }?;
        let from = *self.shape();
        Ok(y.with_composed_backward("expand", &[self], || {
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.sum_to(from)?)])
        }))
    }

    /// Sums over the axes that broadcasting from `shape` repeats: the gradient of [`Tensor::expand`]. f32, f16, bf16; f64 on the CPU.
    pub fn sum_to(&self, shape: impl IntoShape) -> Result<Tensor> {
        let shape = shape.into_shape()?;
        if shape == *self.shape() {
            return Ok(self.clone());
        }
        let lead = self.rank() - shape.rank().min(self.rank());
        if shape.broadcast(self.shape())? != Some(*self.shape()) {
            return Err(Error::shape(
                "sum_to",
                &[("x", self)],
                format!("{shape} does not broadcast to the shape of x"),
            ));
        }
        let axes: Vec<usize> = (0..self.rank())
            .filter(|a| *a < lead || (shape[a - lead] == 1 && self.dims()[*a] != 1))
            .collect();
        self.sum(&axes, true)?.reshape(shape)
    }
}

/// Strides of a tensor of shape `from` broadcast to `to`: 0 along repeated axes.
pub(crate) fn broadcast_steps(from: &Shape, to: &Shape) -> Vec<usize> {
    let strides = from.strides();
    let lead = to.rank() - from.rank();
    (0..to.rank()).map(|a| if a < lead || from[a - lead] == 1 { 0 } else { strides[a - lead] }).collect()
}
