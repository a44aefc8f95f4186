//! Reductions built on sums: variance, standard deviation, norms, log-sum-exp.
use crate::{Error, Result, Tensor};

impl Tensor {
    /// The variance over the given axes: the mean square distance from the mean, with `n - correction` in the denominator
    /// (1 for the unbiased estimate). f32, f64.
    pub fn var(&self, axes: &[usize], correction: usize, keep: bool) -> Result<Tensor> {
        self.reduced_shape("var", axes)?;
        let count: usize = axes.iter().map(|a| self.dims()[*a]).product();
        if count <= correction {
            return Err(Error::shape(
                "var",
                &[("x", self)],
                format!("{count} values are too few for a correction of {correction}"),
            ));
        }
        let centred = self.sub(&self.mean(axes, true)?)?;
        centred.square()?.sum(axes, keep)?.mul_scalar(1.0 / (count - correction) as f64)
    }

    /// The square root of [`Tensor::var`].
    pub fn std(&self, axes: &[usize], correction: usize, keep: bool) -> Result<Tensor> {
        self.var(axes, correction, keep)?.sqrt()
    }

    /// The Euclidean norm over the given axes. f32, f64.
    pub fn l2_norm(&self, axes: &[usize], keep: bool) -> Result<Tensor> {
        self.square()?.sum(axes, keep)?.sqrt()
    }

    /// The sum of absolute values over the given axes. f32, f64.
    pub fn l1_norm(&self, axes: &[usize], keep: bool) -> Result<Tensor> {
        self.abs()?.sum(axes, keep)
    }

    /// `log(sum(exp(x)))` over the given axes, shifted by the maximum so that it does not overflow. f32, f64.
    pub fn log_sum_exp(&self, axes: &[usize], keep: bool) -> Result<Tensor> {
        let max = self.detach().amax(axes, true)?;
        let sum = self.sub(&max)?.exp()?.sum(axes, keep)?.ln()?;
        sum.add(&max.reshape(*sum.shape())?)
    }
}
