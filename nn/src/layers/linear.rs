//! Fully connected layer.
use crate::{Context, Module, Visitor};
use fornax_engine::{DType, Device, Result, Tensor};

/// `y = x · wᵀ + b` with weight `[out, in]`. Parameters start at zero; [`crate::init`] fills them.
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// A layer from `features` to `outputs`.
    pub fn new(features: usize, outputs: usize) -> Result<Linear> {
        Ok(Linear {
            weight: Tensor::zeros([outputs, features], DType::F32, &Device::Cpu)?.variable(),
            bias: Tensor::zeros([outputs], DType::F32, &Device::Cpu)?.variable(),
        })
    }

    /// Features of the input.
    pub fn features(&self) -> usize {
        self.weight.dims()[1]
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor, _: &mut Context) -> Result<Tensor> {
        x.linear(&self.weight, Some(&self.bias))
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.parameter("weight", &self.weight);
        visitor.parameter("bias", &self.bias);
    }
}
