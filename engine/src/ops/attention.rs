//! Scaled dot-product attention (Vaswani et al., 2017).
use crate::{DType, Error, Result, Tensor};

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, Default)]
pub enum AttentionMask<'a> {
    /// All of them.
    #[default]
    None,
    /// Those at or before the query's own position.
    Causal,
    /// Those where a `[…, queries, keys]` tensor of u8 is not 0.
    Bool(&'a Tensor),
    /// All, with a float tensor added to the scaled scores.
    Additive(&'a Tensor),
}

impl Tensor {
    /// `softmax(q kᵀ * scale + mask) v` for `q [… , l, d]`, `k [… , s, d]`, `v [… , s, e]`; the scale is `1 / sqrt(d)` unless
    /// given. f32, f64.
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
                let keep: Vec<u8> = (0..l * s).map(|i| u8::from(i % s <= i / s)).collect();
                scores.add(&additive_mask(&Tensor::from_vec(keep, [l, s])?, self)?)?
            }
            AttentionMask::Bool(keep) => scores.add(&additive_mask(keep, self)?)?,
            AttentionMask::Additive(bias) => scores.add(bias)?,
        };
        scores.softmax(scores.rank() - 1)?.matmul(v)
    }
}

/// 0 where a key may be seen, minus infinity where not; of the dtype and on the device of `like`.
fn additive_mask(keep: &Tensor, like: &Tensor) -> Result<Tensor> {
    if keep.dtype() != DType::U8 {
        return Err(Error::dtype("attention", &[("mask", keep)], "a mask of u8"));
    }
    let open = keep.to_vec::<u8>()?.into_iter().map(|m| if m != 0 { 0.0 } else { f64::NEG_INFINITY });
    Tensor::from_vec(open.collect::<Vec<f64>>(), keep.shape())?
        .to_dtype(like.dtype())?
        .to_device(&like.device())
}
