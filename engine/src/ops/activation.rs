//! Activation functions as operations.
use super::gpu::OnGpu;
use crate::autograd::is_tracked;
use crate::cpu::activation::{SELU_ALPHA, SELU_SCALE};
use crate::fuse::{Expression, expression};
use crate::{Activation, Result, Tensor, cpu, cuda};

impl Tensor {
    /// `activation(x)`, elementwise; any shape. f32, f16, bf16; f64 on the CPU.
    pub fn activate(&self, activation: Activation) -> Result<Tensor> {
        if activation == Activation::Identity {
            return Ok(self.clone());
        }
        if self.is_half_on_cpu() {
            return self.widened()?.activate(activation)?.rounded_as(self);
        }
        let y = match OnGpu::of("activate", &[("x", self)])? {
            Some(on) => on.build(*self.shape(), self.dtype(), |y| {
                cuda::activation::forward(&on.gpu, activation, self.device_view().slice(), y)
            }),
            None => dispatch_real!("activate", [("x", self)], T => {
                let x = self.read::<T>()?;
                Tensor::build(*self.shape(), |y: &mut [T]| cpu::activation::forward(activation, &x, y))
            }),
        }?;
        // ReLU's derivative follows from its output, which the next operation saves anyway.
        if activation == Activation::Relu {
            return Ok(y.with_output_backward(
                "activate",
                &[self],
                move |y: &Tensor, grad: Tensor, _: &[bool]| {
                    Ok(vec![Some(y.activation_gradient(activation, &grad)?)])
                },
            ));
        }
        Ok(y.with_composed_backward("activate", &[self], || {
            let x = self.clone();
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(x.activation_gradient(activation, &grad)?)])
        }))
    }

    /// `dy f'(x)`, the gradient of an activation's input. `self` is x, or for ReLU the output.
    pub(super) fn activation_gradient(&self, activation: Activation, dy: &Tensor) -> Result<Tensor> {
        if is_tracked(&[self, dy]) {
            return match activation {
                Activation::Relu => dy.mul(&self.detach().greater(0.0)?),
                _ => expression_of(activation).gradient(0).apply(&[self, dy]),
            };
        }
        if self.is_half_on_cpu() {
            return self.widened()?.activation_gradient(activation, &dy.widened()?)?.rounded_as(self);
        }
        match OnGpu::of("activate", &[("x", self), ("grad", dy)])? {
            Some(on) => on.build(*self.shape(), self.dtype(), |dx| {
                cuda::activation::backward(
                    &on.gpu,
                    activation,
                    self.device_view().slice(),
                    dy.device_view().slice(),
                    dx,
                )
            }),
            None => dispatch_real!("activate", [("x", self)], T => {
                let (x, dy) = (self.read::<T>()?, dy.read::<T>()?);
                Tensor::build(*self.shape(), |dx: &mut [T]| cpu::activation::backward(activation, &x, &dy, dx))
            }),
        }
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

/// An activation as an expression, which has derivatives of any order. Subgradients at kinks equal those of the kernels.
fn expression_of(activation: Activation) -> Expression {
    match activation {
        Activation::Identity => expression(|[x]| x),
        Activation::Relu => expression(|[x]| x.relu()),
        Activation::Relu6 => expression(|[x]| x.greater(0.0).select(x.less(6.0).select(x, 6.0), 0.0)),
        Activation::Silu => expression(|[x]| x.silu()),
        Activation::Gelu => expression(|[x]| x.gelu()),
        Activation::GeluTanh => expression(|[x]| {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }),
        Activation::QuickGelu => expression(|[x]| x * (1.702 * x).sigmoid()),
        Activation::HardSwish => {
            expression(|[x]| x.greater(-3.0).select(x.less(3.0).select(x * (x + 3.0) / 6.0, x), 0.0))
        }
        Activation::HardSigmoid => {
            expression(|[x]| x.greater(-3.0).select(x.less(3.0).select((x + 3.0) / 6.0, 1.0), 0.0))
        }
        Activation::Sigmoid => expression(|[x]| x.sigmoid()),
        Activation::Mish => expression(|[x]| x * x.softplus().tanh()),
        Activation::Tanh => expression(|[x]| x.tanh()),
        Activation::LeakyRelu(negative_slope) => {
            expression(|[x]| x.greater(0.0).select(x, negative_slope * x))
        }
        Activation::Elu(alpha) => expression(|[x]| x.greater(0.0).select(x, alpha * x.exp_m1())),
        Activation::Softplus => expression(|[x]| x.softplus()),
        Activation::Selu => expression(|[x]| SELU_SCALE * x.greater(0.0).select(x, SELU_ALPHA * x.exp_m1())),
        Activation::HardTanh => expression(|[x]| x.greater(-1.0).select(x.less(1.0).select(x, 1.0), -1.0)),
        Activation::Exp => expression(|[x]| x.exp()),
    }
}
