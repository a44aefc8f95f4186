//! Layer normalisation layer.
use super::in_dtype;
use crate::capture::LayerInfo;
use crate::precision::Operation;
use crate::{Context, Module, Visitor};
use fornax_engine::{DType, Device, Result, Tensor};

/// Layer normalisation over the last axis (Ba et al., 2016); on images, over the channels of each pixel, as timm's `LayerNorm2d`.
/// Parameters are f32, with weight 1 and bias 0; the input is f32, f64, f16 or bf16.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    info: LayerInfo,
}

impl LayerNorm {
    /// Layer norm over `channels` channels.
    pub fn new(channels: usize, eps: f64) -> Result<LayerNorm> {
        Ok(LayerNorm {
            weight: Tensor::ones([channels], DType::F32, &Device::Cpu)?.variable(),
            bias: Tensor::zeros([channels], DType::F32, &Device::Cpu)?.variable(),
            eps,
            info: LayerInfo::new("LayerNorm"),
        })
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let x = cx.autocast(Operation::RowNorm, x)?;
        let [weight, bias] = [&self.weight, &self.bias].map(|p| in_dtype(p, x.dtype()));
        let y = x.layer_norm(Some(&weight?), Some(&bias?), self.eps)?;
        Ok(cx.capture(&self.info, y, 0))
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.parameter("weight", &self.weight);
        visitor.parameter("bias", &self.bias);
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}
