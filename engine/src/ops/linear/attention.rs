//! Scaled dot-product attention (Vaswani et al., 2017).
use crate::ops::reduce::identity;
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
            AttentionMask::Causal => scores.add(&additive_mask(&causal_mask(l, s, self)?)?)?,
            AttentionMask::Bool(mask) if mask.dtype() != DType::U8 => {
                return Err(Error::dtype("attention", &[("mask", mask)], "a boolean mask of u8"));
            }
            AttentionMask::Bool(mask) => {
                scores.add(&additive_mask(&mask.to_device(&self.device())?.to_dtype(self.dtype())?)?)?
            }
            AttentionMask::Additive(mask) => scores.add(mask)?,
        };
        scores.softmax(scores.rank() - 1)?.matmul(v)
    }
}

/// A mask as an additive one: 0 where it is greater than 0, else minus infinity.
fn additive_mask(mask: &Tensor) -> Result<Tensor> {
    mask.greater(0.0)?.log()
}

/// 1 where key `j` of `s` is at or before query `i` of `l`, else 0, in the dtype and on the device of `like`. It is computed there, so
/// that a CUDA graph can capture it.
fn causal_mask(l: usize, s: usize, like: &Tensor) -> Result<Tensor> {
    let n = l.max(s);
    identity(n, like)?.cumsum(0)?.narrow(0, 0, l)?.narrow(1, 0, s)
}
