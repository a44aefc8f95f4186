//! Convolution layer.
use super::BatchNorm2d;
use crate::precision::Operation;
use crate::{Context, Module, Visitor};
use fornax_engine::{Activation, Conv2d as Options, DType, Device, Result, Tensor};

/// A convolution over `[n, h, w, c]` with a weight `[out, kh, kw, in / groups]` and an optional bias. Parameters start at
/// zero; [`crate::init`] fills them.
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    options: Options,
}

impl Conv2d {
    /// A layer without bias, with square kernel and stride 1.
    pub fn new(c_in: usize, c_out: usize, kernel: usize, options: Options) -> Result<Conv2d> {
        let shape = [c_out, kernel, kernel, c_in / options.groups.max(1)];
        let weight = Tensor::zeros(shape, DType::F32, &Device::Cpu)?.variable();
        Ok(Conv2d { weight, bias: None, options })
    }

    /// The usual square layer: stride `stride`, padding that keeps the size at stride 1.
    pub fn same(c_in: usize, c_out: usize, kernel: usize, stride: usize) -> Result<Conv2d> {
        Conv2d::grouped(c_in, c_out, kernel, stride, 1)
    }

    /// As [`Conv2d::same`], in channel groups.
    pub fn grouped(c_in: usize, c_out: usize, kernel: usize, stride: usize, groups: usize) -> Result<Conv2d> {
        let padding = [(kernel - 1) / 2; 2];
        Conv2d::new(
            c_in,
            c_out,
            kernel,
            Options { stride: [stride; 2], padding, groups, ..Options::default() },
        )
    }

    /// With a bias.
    pub fn with_bias(mut self) -> Result<Conv2d> {
        self.bias = Some(Tensor::zeros([self.weight.dims()[0]], DType::F32, &Device::Cpu)?.variable());
        Ok(self)
    }

    /// `activation(norm(convolution) + residual)`, as one operation where the convolution has no bias.
    pub fn forward_norm_act(
        &self,
        x: &Tensor,
        norm: &BatchNorm2d,
        activation: Activation,
        residual: Option<&Tensor>,
        cx: &mut Context,
    ) -> Result<Tensor> {
        if self.bias.is_some() {
            return norm.forward_act(&self.forward(x, cx)?, activation, residual, cx);
        }
        let (x, weight) = self.operands(x, cx)?;
        norm.with_options(cx, |norm| {
            x.conv2d_batch_norm_act(&weight, &self.options, norm, activation, residual)
        })
    }

    /// Input and weight in the dtype that the context asks for.
    fn operands(&self, x: &Tensor, cx: &Context) -> Result<(Tensor, Tensor)> {
        Ok((cx.operand(Operation::Product, x)?, cx.parameter(Operation::Product, &self.weight)?))
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let (x, weight) = self.operands(x, cx)?;
        let bias = self.bias.as_ref().map(|bias| cx.parameter(Operation::Product, bias)).transpose()?;
        x.conv2d(&weight, bias.as_ref(), &self.options)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.conv_weight("weight", &self.weight);
        if let Some(bias) = &self.bias {
            visitor.parameter("bias", bias);
        }
    }
}
