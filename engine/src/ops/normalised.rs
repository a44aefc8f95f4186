//! Normalisation as operations: what stands in for the fused norms where their gradients are to be differentiated in turn.
use crate::{DType, Result, Tensor};

/// `(x - mean) / sqrt(var + eps)` over some axes, in the dtype of arithmetic.
pub(super) struct Normalised {
    pub(super) value: Tensor,
    /// `1 / sqrt(var + eps)`
    inv: Tensor,
    axes: Vec<usize>,
    by: Statistics,
}

/// What x is normalised by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Statistics {
    /// Its own mean and variance.
    Own,
    /// Its own mean square.
    OwnSquare,
    /// Numbers that do not depend on it.
    Fixed,
}

impl Normalised {
    /// By statistics of x itself.
    pub(super) fn by_own(x: &Tensor, axes: &[usize], by: Statistics, eps: f64) -> Result<Normalised> {
        let x = wide(x)?;
        let centred = if by == Statistics::Own { x.sub(&x.mean(axes, true)?)? } else { x };
        let inv = inverse_root(&centred.square()?.mean(axes, true)?, eps)?;
        Ok(Normalised { value: centred.mul(&inv)?, inv, axes: axes.to_vec(), by })
    }

    /// By a fixed mean and variance.
    pub(super) fn by_fixed(x: &Tensor, mean: &Tensor, var: &Tensor, eps: f64) -> Result<Normalised> {
        let inv = inverse_root(&wide(&var.detach())?, eps)?;
        let value = wide(x)?.sub(&wide(&mean.detach())?)?.mul(&inv)?;
        Ok(Normalised { value, inv, axes: vec![], by: Statistics::Fixed })
    }

    /// The gradient of x, for this gradient of the value.
    pub(super) fn input_gradient(&self, d: &Tensor) -> Result<Tensor> {
        if self.by == Statistics::Fixed {
            return d.mul(&self.inv);
        }
        let through_scale = self.value.mul(&d.mul(&self.value)?.mean(&self.axes, true)?)?;
        let d = match self.by {
            Statistics::Own => d.sub(&d.mean(&self.axes, true)?)?,
            _ => d.clone(),
        };
        d.sub(&through_scale)?.mul(&self.inv)
    }
}

fn inverse_root(var: &Tensor, eps: f64) -> Result<Tensor> {
    var.affine(1.0, eps)?.powf(-0.5)
}

/// A tensor in the dtype of arithmetic: f32, or f64.
pub(super) fn wide(t: &Tensor) -> Result<Tensor> {
    t.to_dtype(if t.dtype() == DType::F64 { DType::F64 } else { DType::F32 })
}
