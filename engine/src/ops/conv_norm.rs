//! Convolution, batch norm and activation as one operation.
mod pending;

pub use pending::PendingBatchNorm;

use crate::{Activation, BatchNorm, Conv2dOptions, Result, Tensor};

impl Tensor {
    /// `activation(batch_norm(conv2d(x, weight)) + residual)`, as [`Tensor::conv2d`] and [`Tensor::batch_norm_act`] one after the
    /// other, which it is where nothing can be fused.
    ///
    /// On a GPU, in f16 and bf16, with the batch's own statistics and channels in multiples of 8, cuDNN sums the output's channels
    /// and their squares up while it writes them, which saves batch norm its pass of statistics. The variance is then the
    /// difference of two f32 sums: a channel's is off by up to some `1e-6 (var + 2 mean^2)`, which shows where the mean is hundreds
    /// of times the deviation; outputs of convolutions in networks that normalise are far from that.
    pub fn conv2d_batch_norm_act(
        &self,
        weight: &Tensor,
        options: &Conv2dOptions,
        norm: &BatchNorm,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let of_batch = norm.training || norm.running.is_none();
        let (y, sums) = match of_batch {
            true => self.conv2d_with_sums(weight, options)?,
            false => (self.conv2d(weight, None, options)?, None),
        };
        y.batch_norm_act_of(sums.as_ref(), norm, activation, residual)
    }
}

#[cfg(test)]
mod tests;
