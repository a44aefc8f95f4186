//! Multi-head self-attention (Vaswani et al., 2017).
use super::Linear;
use crate::capture::LayerInfo;
use crate::precision::Operation;
use crate::{Context, Module, Visitor};
use fornax_engine::{AttentionMask, Result, Tensor};

/// Multi-head self-attention over tokens `[n, l, c]`: `softmax(q kᵀ / sqrt(d)) v` for each head of `d = c / heads` features, with
/// `qkv` and `proj` as linear layers with bias. Dtypes: f32, f64, f16, bf16. timm's `Attention`.
pub struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
    info: LayerInfo,
}

impl Attention {
    /// Attention over `features` features, split evenly over the heads. Errors if they cannot be.
    pub fn new(features: usize, heads: usize) -> Result<Attention> {
        if heads == 0 || !features.is_multiple_of(heads) {
            let why = format!("{features} features cannot be split evenly over {heads} heads");
            return Err(fornax_engine::Error::value("Attention::new", &[], why));
        }
        let (qkv, proj) = (Linear::new(features, 3 * features)?, Linear::new(features, features)?);
        Ok(Attention { qkv, proj, heads, info: LayerInfo::new("Attention") })
    }
}

impl Module for Attention {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let qkv = self.qkv.forward(x, cx)?;
        let &[n, l, c3] = qkv.dims() else {
            return Err(fornax_engine::Error::shape("attention", &[("x", x)], "needs tokens [n, l, c]"));
        };
        let (c, d) = (c3 / 3, c3 / 3 / self.heads);
        // [3, n, heads, l, d]
        let parts = qkv.reshape([n, l, 3, self.heads, d])?.permute(&[2, 0, 3, 1, 4])?;
        let part = |i: usize| parts.narrow(0, i, 1)?.reshape([n, self.heads, l, d]);
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let y = cx.autocast(Operation::MatMul, &q)?.attention(&k, &v, AttentionMask::None, None)?;
        let y = y.permute(&[0, 2, 1, 3])?.reshape([n, l, c])?;
        let y = cx.capture(&self.info, y, 2 * n * l * l * c);
        self.proj.forward(&y, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.child("qkv", &self.qkv);
        visitor.child("proj", &self.proj);
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_that_heads_do_not_divide_are_rejected() {
        for (features, heads) in [(8, 0), (8, 3), (0, 0)] {
            let error = Attention::new(features, heads).map(drop).expect_err("not divisible");
            assert!(error.to_string().contains(&format!("{features} features")), "{error}");
        }
        assert!(Attention::new(8, 4).is_ok());
    }
}
