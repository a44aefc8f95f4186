//! Fully connected layer.
use super::in_dtype;
use crate::capture::LayerInfo;
use crate::precision::Operation;
use crate::{Context, Module, Visitor};
use fornax_engine::{DType, Device, Result, Tensor};

/// Linear layer `y = x · wᵀ + b` over the last axis, with weight `[out, in]` and bias `[out]`. Parameters are f32 and zero until
/// initialised by [`crate::init`]; the input is f32, f64, f16 or bf16.
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
    info: LayerInfo,
}

impl Linear {
    /// Layer with `features` inputs and `outputs` outputs.
    pub fn new(features: usize, outputs: usize) -> Result<Linear> {
        Ok(Linear {
            weight: Tensor::zeros([outputs, features], DType::F32, &Device::Cpu)?.variable(),
            bias: Tensor::zeros([outputs], DType::F32, &Device::Cpu)?.variable(),
            info: LayerInfo::new("Linear"),
        })
    }

    /// Input features.
    pub fn features(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Weight and bias in the given dtype.
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
        Ok(cx.capture(&self.info, y, macs))
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.parameter("weight", &self.weight);
        visitor.parameter("bias", &self.bias);
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}
