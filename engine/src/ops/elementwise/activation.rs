//! Activation functions as operations.
use super::cpu::activation as on_cpu;
use super::cuda::activation as on_cuda;
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::fuse::{Expression, expression};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, composed_backward, for_real};
use crate::scalar::Scalar;
use crate::{Activation, Result, Tensor};
use std::sync::Arc;

impl Tensor {
    /// `activation(x)`, elementwise; any shape. f32, f16, bf16; f64 on the CPU.
    pub fn activate(&self, activation: Activation) -> Result<Tensor> {
        match activation {
            Activation::Identity => Ok(self.clone()),
            _ => apply(Activate(activation), &[self]),
        }
    }

    /// `dy f'(x)`, the gradient of an activation's input. `self` is x, or for ReLU the output.
    pub(in crate::ops) fn activation_gradient(&self, activation: Activation, dy: &Tensor) -> Result<Tensor> {
        apply(ActivationGradient(activation), &[self, dy])
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

const NAME: &str = "activate";

struct Activate(Activation);

impl Op for Activate {
    fn spec(&self) -> Spec {
        Spec::new(NAME, &["x"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => on_cpu::forward::<T>(self.0, &call.x(0)?, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        on_cuda::forward(gpu, self.0, x[0], y[0])
    }
}

impl Derivative for Activate {
    fn saves(&self, _: &[bool]) -> Saves {
        // ReLU's derivative follows from its output, which the next operation saves anyway.
        if self.0 == Activation::Relu { Saves::results(&[0]) } else { Saves::operands(&[0]) }
    }

    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        let x = if self.0 == Activation::Relu { saved.result(0) } else { saved.operand(0) };
        Ok(vec![Some(x.activation_gradient(self.0, &dy)?)])
    }
}

/// `dy f'(x)` for x, or for ReLU its output, and dy.
struct ActivationGradient(Activation);

impl Op for ActivationGradient {
    fn spec(&self) -> Spec {
        Spec::new(NAME, &["x", "grad"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => on_cpu::backward::<T>(self.0, &call.x(0)?, &call.x(1)?, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        on_cuda::backward(gpu, self.0, x[0], x[1], y[0])
    }
}

impl Derivative for ActivationGradient {
    fn saves(&self, _: &[bool]) -> Saves {
        match self.0 {
            Activation::Relu => Saves::operands(&[0]),
            _ => Saves::operands(&[0, 1]),
        }
    }

    fn backward(&self, saved: &Saved, g: Tensor, needs: &[bool]) -> Result<Gradients> {
        if self.0 == Activation::Relu {
            // The derivative is constant.
            let of_dy = needs[1].then(|| saved.operand(0).activation_gradient(self.0, &g)).transpose()?;
            return Ok(vec![None, of_dy]);
        }
        composed_backward(saved, &g, needs, |t| gradient_expression(self.0).apply(&[&t[0], &t[1]]))
    }
}

/// `dy f'(x)` as an expression of x and dy, which has derivatives of any order.
fn gradient_expression(activation: Activation) -> Expression {
    expression(|[x, dy]| dy.times(activation.derivative(x, x.constant(activation.parameter()))))
}
