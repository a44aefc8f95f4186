//! Softmax and its logarithm.
use super::{cpu, cuda};
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, composed_backward, for_real};
use crate::{Axis, Result, Tensor};
use std::sync::Arc;

impl Tensor {
    /// `e^x / sum(e^x)` along an axis, shifted by the maximum to avoid overflow. f32, f16, bf16; f64 on the CPU.
    pub fn softmax(&self, axis: impl Axis) -> Result<Tensor> {
        self.softmax_along("softmax", axis, false)
    }

    /// Logarithm of [`Tensor::softmax`]. f32, f16, bf16; f64 on the CPU.
    pub fn log_softmax(&self, axis: impl Axis) -> Result<Tensor> {
        self.softmax_along("log_softmax", axis, true)
    }

    /// The kernels work on the last axis; another axis is permuted there and back.
    fn softmax_along(&self, name: &'static str, axis: impl Axis, log: bool) -> Result<Tensor> {
        let axis = self.axis(name, axis)?;
        let last = self.rank() - 1;
        if axis != last {
            let mut axes: Vec<usize> = (0..self.rank()).collect();
            axes.swap(axis, last);
            return self.permute(&axes)?.softmax_along(name, last, log)?.permute(&axes);
        }
        apply(Softmax { name, n: self.dims()[axis], log }, &[self])
    }
}

/// Softmax of rows of n elements, or its logarithm.
#[derive(Clone, Copy)]
struct Softmax {
    name: &'static str,
    n: usize,
    log: bool,
}

impl Op for Softmax {
    fn spec(&self) -> Spec {
        Spec::new(self.name, &["x"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => cpu::softmax::forward::<T>(&call.x(0)?, self.n, self.log, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::softmax::forward(gpu, x[0], self.n, self.log, y[0])
    }
}

impl Derivative for Softmax {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::results(&[0])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(apply(SoftmaxGrad(*self), &[saved.result(0), &dy])?)])
    }
}

/// Gradient of [`Softmax`] from its result: `y (dy - sum(y dy))`, or `dy - e^y sum(dy)` for the logarithm.
struct SoftmaxGrad(Softmax);

impl Op for SoftmaxGrad {
    fn spec(&self) -> Spec {
        Spec::new(self.0.name, &["y", "grad"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let Softmax { n, log, .. } = self.0;
        for_real!(call, T => cpu::softmax::backward::<T>(&call.x(0)?, &call.x(1)?, n, log, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::softmax::backward(gpu, x[0], x[1], self.0.n, self.0.log, y[0])
    }
}

impl Derivative for SoftmaxGrad {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0, 1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        composed_backward(saved, &dy, needs, |operands| {
            let [y, dy] = operands else { unreachable!("two operands") };
            let axis = y.rank() - 1;
            match self.0.log {
                false => y.mul(&dy.sub(&y.mul(dy)?.sum(&[axis], true)?)?),
                true => dy.sub(&y.exp()?.mul(&dy.sum(&[axis], true)?)?),
            }
        })
    }
}
