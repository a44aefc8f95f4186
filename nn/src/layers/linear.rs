//! Fully connected layer.
use super::in_dtype;
use crate::observe::Label;
use crate::precision::Operation;
use crate::{Context, Module, Visitor};
use fornax_engine::{DType, Device, Result, Tensor};

/// `y = x · wᵀ + b` with weight `[out, in]`. Parameters start at zero; [`crate::init`] fills them.
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
    label: Label,
}

impl Linear {
    /// A layer from `features` to `outputs`.
    pub fn new(features: usize, outputs: usize) -> Result<Linear> {
        Ok(Linear {
            weight: Tensor::zeros([outputs, features], DType::F32, &Device::Cpu)?.variable(),
            bias: Tensor::zeros([outputs], DType::F32, &Device::Cpu)?.variable(),
            label: Label::new("Linear"),
        })
    }

    /// Features of the input.
    pub fn features(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Weight and bias in the dtype of what they meet.
    pub(super) fn parameters(&self, dtype: DType) -> Result<(Tensor, Tensor)> {
        Ok((in_dtype(&self.weight, dtype)?, in_dtype(&self.bias, dtype)?))
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let x = cx.autocast(Operation::MatMul, x)?;
        let (weight, bias) = self.parameters(x.dtype())?;
        let y = x.linear(&weight, Some(&bias))?;
        let macs = y.numel() * self.features();
        Ok(cx.observed(&self.label, y, macs))
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.parameter("weight", &self.weight);
        visitor.parameter("bias", &self.bias);
    }

    fn label(&self) -> Option<&Label> {
        Some(&self.label)
    }
}
