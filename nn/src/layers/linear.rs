//! Fully connected layer.
use crate::precision::Operation;
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
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let x = cx.operand(Operation::Product, x)?;
        let [weight, bias] = [&self.weight, &self.bias].map(|p| cx.parameter(Operation::Product, p));
        x.linear(&weight?, Some(&bias?))
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.parameter("weight", &self.weight);
        visitor.parameter("bias", &self.bias);
    }
}
