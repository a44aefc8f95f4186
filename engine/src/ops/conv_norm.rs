//! Convolution, batch norm and activation as one operation.
mod pending;

pub use pending::PendingBatchNorm;

use crate::{Activation, BatchNorm, Conv2dOptions, Result, Tensor};

impl Tensor {
    /// `activation(batch_norm(conv2d(x, weight)) + residual)`: [`Tensor::conv2d`] followed by [`Tensor::batch_norm_act`], fused where
    /// possible. Shapes and dtypes are theirs.
    ///
    /// On a GPU, in f16 and bf16, with the batch's statistics and channels in multiples of 8, cuDNN computes the sums and the sums of
    /// squares of the output channels in the convolution, which saves batch norm its statistics pass. The variance is then the
    /// difference of two f32 sums, with an error of up to some `1e-6 (var + 2 mean^2)`. It matters only where the mean is hundreds of
    /// times the standard deviation, which convolutions in networks with normalisation are far from.
    pub fn conv2d_batch_norm_act(
        &self,
        weight: &Tensor,
        options: &Conv2dOptions,
        norm: &BatchNorm,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let batch_statistics = norm.training || norm.running.is_none();
        let (y, sums) = match batch_statistics {
            true => self.conv2d_with_sums(weight, options)?,
            false => (self.conv2d(weight, None, options)?, None),
        };
        y.batch_norm_act_of(sums.as_ref(), norm, activation, residual)
    }
}

#[cfg(test)]
mod tests;
