//! Normalisation as a composition of operations, which replaces the fused norms with `create_graph`.
use crate::{DType, Result, Tensor};

/// `(x - mean) / sqrt(var + eps)` over some axes, in the compute dtype.
pub(in crate::ops) struct Normalised {
    pub(in crate::ops) value: Tensor,
    /// `1 / sqrt(var + eps)`
    inv_std: Tensor,
    axes: Vec<usize>,
    by: NormStatistics,
}

/// Statistics that x is normalised by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum NormStatistics {
    /// Mean and variance of x.
    MeanVariance,
    /// Mean square of x.
    MeanSquare,
    /// Constants.
    Fixed,
}

impl Normalised {
    /// x normalised by statistics of x.
    pub(in crate::ops) fn by_input_statistics(
        x: &Tensor,
        axes: &[usize],
        by: NormStatistics,
        eps: f64,
    ) -> Result<Normalised> {
        let x = to_compute_dtype(x)?;
        let centred = if by == NormStatistics::MeanVariance { x.sub(&x.mean(axes, true)?)? } else { x };
        let inv = inverse_root(&centred.square()?.mean(axes, true)?, eps)?;
        Ok(Normalised { value: centred.mul(&inv)?, inv_std: inv, axes: axes.to_vec(), by })
    }

    /// x normalised by a constant mean and variance.
    pub(in crate::ops) fn by_fixed_statistics(
        x: &Tensor,
        mean: &Tensor,
        var: &Tensor,
        eps: f64,
    ) -> Result<Normalised> {
        let inv = inverse_root(&to_compute_dtype(&var.detach())?, eps)?;
        let value = to_compute_dtype(x)?.sub(&to_compute_dtype(&mean.detach())?)?.mul(&inv)?;
        Ok(Normalised { value, inv_std: inv, axes: vec![], by: NormStatistics::Fixed })
    }

    /// The gradient of x for the gradient `d` of the value.
    pub(in crate::ops) fn input_gradient(&self, d: &Tensor) -> Result<Tensor> {
        if self.by == NormStatistics::Fixed {
            return d.mul(&self.inv_std);
        }
        let through_scale = self.value.mul(&d.mul(&self.value)?.mean(&self.axes, true)?)?;
        let d = match self.by {
            NormStatistics::MeanVariance => d.sub(&d.mean(&self.axes, true)?)?,
            _ => d.clone(),
        };
        d.sub(&through_scale)?.mul(&self.inv_std)
    }
}

fn inverse_root(var: &Tensor, eps: f64) -> Result<Tensor> {
    var.affine(1.0, eps)?.powf(-0.5)
}

/// A tensor cast to the compute dtype: f64 for f64, else f32.
pub(in crate::ops) fn to_compute_dtype(t: &Tensor) -> Result<Tensor> {
    t.to_dtype(if t.dtype() == DType::F64 { DType::F64 } else { DType::F32 })
}
