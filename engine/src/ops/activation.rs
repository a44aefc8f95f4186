//! Activations as operations.
use super::gpu::OnGpu;
use crate::{Activation, Result, Tensor, cpu, cuda};

impl Tensor {
    /// `activation(x)`, elementwise; any shape. f32, f64.
    pub fn activate(&self, activation: Activation) -> Result<Tensor> {
        if activation == Activation::Identity {
            return Ok(self.clone());
        }
        if self.is_half_on_cpu() {
            return self.widened()?.activate(activation)?.rounded_as(self);
        }
        let y = match OnGpu::of("activate", &[("x", self)])? {
            Some(on) => on.build(*self.shape(), self.dtype(), |y| {
                cuda::activation::forward(&on.gpu, activation, self.held().slice(), y)
            }),
            None => dispatch_real!("activate", [("x", self)], T => {
                let x = self.read::<T>()?;
                Tensor::build(*self.shape(), |y: &mut [T]| cpu::activation::forward(activation, &x, y))
            }),
        }?;
        // ReLU's slope can be read off its output, which the next operation keeps anyway.
        let kept = if activation == Activation::Relu { y.clone() } else { self.detach() };
        Ok(y.recorded("activate", &[self], || {
            move |grad: Tensor, _: &[bool]| {
                let dx = match OnGpu::of("activate", &[("x", &kept), ("grad", &grad)])? {
                    Some(on) => on.build(*kept.shape(), kept.dtype(), |dx| {
                        cuda::activation::backward(&on.gpu, activation, kept.held().slice(), grad.held().slice(), dx)
                    }),
                    None => dispatch_real!("activate", [("x", &kept)], T => {
                        let (x, dy) = (kept.read::<T>()?, grad.read::<T>()?);
                        Tensor::build(*kept.shape(), |dx: &mut [T]| cpu::activation::backward(activation, &x, &dy, dx))
                    }),
                }?;
                Ok(vec![Some(dx)])
            }
        }))
    }

    /// `max(x, 0)`; the gradient at 0 is 0, as in PyTorch.
    pub fn relu(&self) -> Result<Tensor> {
        self.activate(Activation::Relu)
    }

    /// `x sigmoid(x)`.
    pub fn silu(&self) -> Result<Tensor> {
        self.activate(Activation::Silu)
    }

    /// `x Φ(x)`.
    pub fn gelu(&self) -> Result<Tensor> {
        self.activate(Activation::Gelu)
    }

    /// `1 / (1 + e^-x)`.
    pub fn sigmoid(&self) -> Result<Tensor> {
        self.activate(Activation::Sigmoid)
    }

    /// The hyperbolic tangent.
    pub fn tanh(&self) -> Result<Tensor> {
        self.activate(Activation::Tanh)
    }

    /// `e^x`.
    pub fn exp(&self) -> Result<Tensor> {
        self.activate(Activation::Exp)
    }
}
