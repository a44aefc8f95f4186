//! Scaled dot-product attention (Vaswani et al., 2017).
use crate::{DType, Error, Result, Tensor};

/// Attention mask.
#[derive(Clone, Copy, Debug, Default)]
pub enum AttentionMask<'a> {
    /// Every query attends to all keys.
    #[default]
    None,
    /// A query attends to the keys at or before its own position.
    Causal,
    /// Boolean mask: a query attends where this u8 tensor `[…, l, s]` is not 0.
    Bool(&'a Tensor),
    /// Additive mask: this tensor `[…, l, s]`, of the dtype of q, is added to the scaled scores.
    Additive(&'a Tensor),
}

impl Tensor {
    /// `softmax(q kᵀ * scale + mask) v` for `q [… , l, d]`, `k [… , s, d]`, `v [… , s, e]`; `self` is q, and the scale is `1 / sqrt(d)`
    /// by default. f32, f16, bf16; f64 on the CPU.
    pub fn attention(
        &self,
        k: &Tensor,
        v: &Tensor,
        mask: AttentionMask,
        scale: Option<f64>,
    ) -> Result<Tensor> {
        let operands = [("q", self), ("k", k), ("v", v)];
        let (&[.., l, d], &[.., s, _]) = (self.dims(), k.dims()) else {
            return Err(Error::shape(
                "attention",
                &operands,
                "needs q [..., l, d], k [..., s, d] and v [..., s, e]",
            ));
        };
        let scores =
            self.mul_scalar(scale.unwrap_or(1.0 / (d as f64).sqrt()))?.matmul_transposed(k, false, true)?;
        let scores = match mask {
            AttentionMask::None => scores,
            AttentionMask::Causal => {
                let mask: Vec<u8> = (0..l * s).map(|i| u8::from(i % s <= i / s)).collect();
                scores.add(&additive_mask(&Tensor::from_vec(mask, [l, s])?, self)?)?
            }
            AttentionMask::Bool(mask) => scores.add(&additive_mask(mask, self)?)?,
            AttentionMask::Additive(mask) => scores.add(mask)?,
        };
        scores.softmax(scores.rank() - 1)?.matmul(v)
    }
}

/// A boolean mask as an additive one: 0 where it is set, else minus infinity; of the dtype and on the device of `like`.
fn additive_mask(mask: &Tensor, like: &Tensor) -> Result<Tensor> {
    if mask.dtype() != DType::U8 {
        return Err(Error::dtype("attention", &[("mask", mask)], "a boolean mask of u8"));
    }
    let values = mask.to_vec::<u8>()?.into_iter().map(|m| if m != 0 { 0.0 } else { f64::NEG_INFINITY });
    Tensor::from_vec(values.collect::<Vec<f64>>(), mask.shape())?
        .to_dtype(like.dtype())?
        .to_device(&like.device())
}
