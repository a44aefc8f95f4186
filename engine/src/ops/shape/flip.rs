//! Reversing the elements of an axis.
use crate::autograd::{Derivative, Gradients, Saved};
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_any};
use crate::{Axis, Result, Shape, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Reverses the order of elements along an axis. Any dtype.
    pub fn flip(&self, axis: impl Axis) -> Result<Tensor> {
        let axis = self.axis("flip", axis)?;
        apply(Flip { shape: *self.shape(), axis }, &[self])
    }
}

struct Flip {
    shape: Shape,
    axis: usize,
}

impl Op for Flip {
    fn spec(&self) -> Spec {
        Spec::new("flip", &["x"]).any_dtype()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let (n, row) = (self.shape[self.axis], self.shape[self.axis + 1..].iter().product::<usize>());
        for_any!(call, T => {
            let x = call.x::<T>(0)?;
            for (i, y) in call.y::<T>(0)?.chunks_exact_mut(row.max(1)).enumerate() {
                let source = i / n * n + (n - 1 - i % n);
                y.copy_from_slice(&x[source * row..][..row]);
            }
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> cuda::Result<()> {
        cuda::memory::copy::flip(gpu, x[0], &self.shape, self.axis, y[0])
    }
}

impl Derivative for Flip {
    fn backward(&self, _: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(dy.flip(self.axis)?)])
    }
}
