//! Reductions composed of sums: variance, standard deviation, norms, log-sum-exp. f32, f16, bf16; f64 on the CPU.
use crate::{Axes, Error, Result, Tensor};

impl Tensor {
    /// Variance over the given axes, `sum((x - mean)²) / (n - correction)`; a correction of 1 gives the unbiased estimate. With `keepdim`
    /// the axes stay with extent 1. f32, f16, bf16; f64 on the CPU.
    pub fn var(&self, axes: impl Axes, correction: usize, keepdim: bool) -> Result<Tensor> {
        let axes = &axes.indices("var", self)?;
        let count: usize = axes.iter().map(|a| self.dims()[*a]).product();
        if count <= correction {
            return Err(Error::shape(
                "var",
                &[("x", self)],
                format!("{count} values are too few for a correction of {correction}"),
            ));
        }
        let centred = self.sub(&self.mean(axes, true)?)?;
        centred.square()?.sum(axes, keepdim)?.mul_scalar(1.0 / (count - correction) as f64)
    }

    /// Standard deviation: the square root of [`Tensor::var`].
    pub fn std(&self, axes: impl Axes, correction: usize, keepdim: bool) -> Result<Tensor> {
        self.var(axes, correction, keepdim)?.sqrt()
    }

    /// Euclidean norm over the given axes. f32, f16, bf16; f64 on the CPU.
    pub fn l2_norm(&self, axes: impl Axes, keepdim: bool) -> Result<Tensor> {
        self.square()?.sum(axes, keepdim)?.sqrt()
    }

    /// Sum of absolute values over the given axes. f32, f16, bf16; f64 on the CPU.
    pub fn l1_norm(&self, axes: impl Axes, keepdim: bool) -> Result<Tensor> {
        self.abs()?.sum(axes, keepdim)
    }

    /// `log(sum(exp(x)))` over the given axes, shifted by the maximum to avoid overflow. f32, f16, bf16; f64 on the CPU.
    pub fn log_sum_exp(&self, axes: impl Axes, keepdim: bool) -> Result<Tensor> {
        let axes = &axes.indices("log_sum_exp", self)?;
        let max = self.detach().amax(axes, true)?;
        let sum = self.sub(&max)?.exp()?.sum(axes, keepdim)?.log()?;
        sum.add(&max.reshape(*sum.shape())?)
    }
}
