//! Convolution, batch norm and activation as one operation.
use crate::ops::batch_norm::NormInput;
use crate::{Activation, BatchNorm, Conv2dOptions, Result, Tensor};

impl Tensor {
    /// `activation(batch_norm(conv2d(x, weight)) + residual)`: [`Tensor::conv2d`] followed by [`Tensor::batch_norm_act`], fused where
    /// possible. Shapes and dtypes are theirs.
    ///
    /// On the CPU without a residual, the result is computed at its first use. A convolution that can apply the normalization while it reads
    /// its input never computes it, and no backward pass keeps it.
    ///
    /// On a GPU, in f16 and bf16, with the batch's statistics and channels in multiples of 8, cuDNN computes the sums and the sums of
    /// squares of the output channels in the convolution, which saves batch norm its statistics pass, unless timing
    /// ([`crate::cuda::cudnn::ConvPlanChoice::Benchmark`]) finds that slower. The relative error of the variance is then at most 100 times
    /// that of cuDNN's f32 sums; the relative error of the outputs is half of it. Channels with `mean^2 > 32 var`, for which it could be
    /// larger, are read again: their statistics are computed in f64 and rounded to f32.
    pub fn conv2d_batch_norm_act(
        &self,
        weight: &Tensor,
        options: &Conv2dOptions,
        norm: &BatchNorm,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (y, sums) = match norm.uses_batch_statistics() {
            true => self.conv2d_with_sums(weight, options)?,
            false => (self.conv2d(weight, None, options)?, None),
        };
        y.batch_norm_act_of(NormInput::of_convolution(&sums), norm, activation, residual)
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests;
