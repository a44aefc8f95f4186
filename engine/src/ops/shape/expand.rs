//! Broadcasting to a shape, and its gradient, the sum over broadcast axes.
use super::cpu;
use crate::autograd::{Derivative, Gradients, Saved};
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_any};
use crate::ops::elementwise::cpu::binary::BroadcastLayout;
use crate::{Error, IntoShape, Result, Shape, Tensor};
use std::sync::Arc;

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
        apply(Expand { shape, steps: broadcast_steps(self.shape(), &shape) }, &[self])
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

/// A broadcast copy.
struct Expand {
    shape: Shape,
    steps: Vec<usize>,
}

impl Op for Expand {
    fn spec(&self) -> Spec {
        Spec::new("expand", &["x"]).any_dtype()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0]).with_shape(self.shape)])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let layout = BroadcastLayout::new(&self.shape, &self.steps, &self.steps);
        for_any!(call, T => cpu::expand::forward::<T>(&layout, &call.x(0)?, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> cuda::Result<()> {
        cuda::memory::copy::expand(gpu, x[0], &self.steps, &self.shape, y[0])
    }
}

impl Derivative for Expand {
    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(dy.sum_to(saved.shape(0))?)])
    }
}

/// Strides of a tensor of shape `from` broadcast to `to`: 0 along repeated axes.
pub(crate) fn broadcast_steps(from: &Shape, to: &Shape) -> Vec<usize> {
    let strides = from.strides();
    let lead = to.rank() - from.rank();
    (0..to.rank()).map(|a| if a < lead || from[a - lead] == 1 { 0 } else { strides[a - lead] }).collect()
}
