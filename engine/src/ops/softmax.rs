//! Softmax and its logarithm.
use super::gpu::OnGpu;
use crate::autograd::is_tracked;
use crate::{Result, Tensor, cpu, cuda};

impl Tensor {
    /// `e^x / sum(e^x)` along an axis, shifted by the maximum to avoid overflow. f32, f16, bf16; f64 on the CPU.
    pub fn softmax(&self, axis: usize) -> Result<Tensor> {
        self.along_last("softmax", axis, false)
    }

    /// Logarithm of [`Tensor::softmax`]. f32, f16, bf16; f64 on the CPU.
    pub fn log_softmax(&self, axis: usize) -> Result<Tensor> {
        self.along_last("log_softmax", axis, true)
    }

    /// The kernels work on the last axis; another axis is permuted there and back.
    fn along_last(&self, op: &'static str, axis: usize, log: bool) -> Result<Tensor> {
        self.check_axis(op, axis)?;
        if axis + 1 != self.rank() {
            let mut axes: Vec<usize> = (0..self.rank()).collect();
            axes.swap(axis, self.rank() - 1);
            return self.permute(&axes)?.along_last(op, self.rank() - 1, log)?.permute(&axes);
        }
        if self.is_half_on_cpu() {
            return self.widened()?.along_last(op, axis, log)?.rounded_as(self);
        }
        let n = self.dims()[axis];
        let y = match OnGpu::of(op, &[("x", self)])? {
            Some(on) => on.build(*self.shape(), self.dtype(), |y| {
                cuda::softmax::forward(&on.gpu, self.device_view().slice(), n, log, y)
            }),
            None => dispatch_real!(op, [("x", self)], T => {
                let x = self.read::<T>()?;
                Tensor::build(*self.shape(), |y: &mut [T]| cpu::softmax::forward(&x, n, log, y))
            }),
        }?;
        Ok(y.with_output_backward(op, &[self], move |y: &Tensor, grad: Tensor, _: &[bool]| {
            if is_tracked(&[y, &grad]) {
                return Ok(vec![Some(composed(y, &grad, axis, log)?)]);
            }
            let dx = match OnGpu::of(op, &[("y", y), ("grad", &grad)])? {
                Some(on) => on.build(*y.shape(), y.dtype(), |dx| {
                    cuda::softmax::backward(
                        &on.gpu,
                        y.device_view().slice(),
                        grad.device_view().slice(),
                        n,
                        log,
                        dx,
                    )
                }),
                None => dispatch_real!(op, [("x", y)], T => {
                    let (y_data, dy) = (y.read::<T>()?, grad.read::<T>()?);
                    Tensor::build(*y.shape(), |dx: &mut [T]| cpu::softmax::backward(&y_data, &dy, n, log, dx))
                }),
            }?;
            Ok(vec![Some(dx)])
        }))
    }
}

/// The backward pass as operations: `y (dy - sum(y dy))`, or `dy - e^y sum(dy)` for log-softmax.
fn composed(y: &Tensor, dy: &Tensor, axis: usize, log: bool) -> Result<Tensor> {
    match log {
        false => y.mul(&dy.sub(&y.mul(dy)?.sum(&[axis], true)?)?),
        true => dy.sub(&y.exp()?.mul(&dy.sum(&[axis], true)?)?),
    }
}
