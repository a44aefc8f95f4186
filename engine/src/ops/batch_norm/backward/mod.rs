//! The backward pass of a batch norm by kernels.
mod cpu;
mod cuda;

use super::{Channels, OutputGradient};
use crate::op::match_float;
use crate::{Activation, DType, Device, Result, Tensor};
pub(super) use cuda::{Joining, Sums, join, uninitialized};

/// Operands of the backward pass of `y = activation(x * scale + shift + residual)`.
pub(super) struct Backward<'a> {
    pub(super) x: &'a Tensor,
    pub(super) channels: &'a Channels,
    pub(super) activation: Activation,
    pub(super) derivative: DerivativeSource<'a>,
    /// Dtype of weight and bias.
    pub(super) parameter_dtype: DType,
}

/// What determines the activation's derivative, in addition to x.
#[derive(Clone, Copy)]
pub(super) enum DerivativeSource<'a> {
    /// Nothing: there is no residual, or no activation.
    Input,
    /// The derivative itself, one bit per element.
    Mask(&'a Tensor),
    /// The residual.
    Residual(&'a Tensor),
}

impl Backward<'_> {
    /// The wanted gradients of x, weight, bias and residual. Overwrites a gradient without another owner.
    pub(super) fn gradients(&self, grad: OutputGradient, wanted: [bool; 4]) -> Result<[Option<Tensor>; 4]> {
        if self.x.device() != Device::Cpu {
            return self.on_gpu(grad, wanted);
        }
        let grad = grad.compute()?;
        match_float!(self.x.dtype(), T => self.on_cpu::<T>(grad, wanted))
    }
}
