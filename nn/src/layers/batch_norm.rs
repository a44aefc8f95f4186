//! Batch normalisation layer.
use crate::{Context, Module, Visitor};
use fornax_engine::{Activation, BatchNorm, DType, Device, Result, Tensor};

/// Batch normalisation over all axes but the last, with PyTorch's conventions: biased variance to normalise, unbiased into
/// the running variance, `running = (1 - momentum) * running + momentum * batch`.
pub struct BatchNorm2d {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
    /// `None` averages over all batches seen.
    momentum: Option<f64>,
    eps: f64,
}

impl BatchNorm2d {
    /// Over `channels`, with eps 1e-5 and momentum 0.1; weight 1, bias 0.
    pub fn new(channels: usize) -> Result<BatchNorm2d> {
        let ones = || Tensor::ones([channels], DType::F32, &Device::Cpu);
        let zeros = || Tensor::zeros([channels], DType::F32, &Device::Cpu);
        Ok(BatchNorm2d {
            weight: ones()?.variable(),
            bias: zeros()?.variable(),
            running_mean: zeros()?,
            running_var: ones()?,
            num_batches_tracked: Tensor::zeros((), DType::I64, &Device::Cpu)?,
            momentum: Some(0.1),
            eps: 1e-5,
        })
    }

    /// `activation(normalised x + residual)` as one fused operation.
    pub fn forward_act(
        &self,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
        cx: &mut Context,
    ) -> Result<Tensor> {
        self.with_options(cx, |norm| x.batch_norm_act(norm, activation, residual))
    }

    /// Counts the batch in a training pass, and calls `f` with the operation's options.
    pub(super) fn with_options<R>(&self, cx: &Context, f: impl FnOnce(&BatchNorm) -> Result<R>) -> Result<R> {
        let mut momentum = self.momentum.unwrap_or_default();
        if cx.updates_statistics() {
            let mut batches = self.num_batches_tracked.write::<i64>()?;
            batches[0] += 1;
            momentum = self.momentum.unwrap_or(1.0 / batches[0] as f64);
        }
        f(&BatchNorm {
            weight: Some(&self.weight),
            bias: Some(&self.bias),
            // Repeated for its backward pass, it has updated them already.
            running: (cx.updates_statistics() || !cx.training())
                .then_some((&self.running_mean, &self.running_var)),
            training: cx.training(),
            momentum,
            eps: self.eps,
        })
    }
}

impl Module for BatchNorm2d {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        self.forward_act(x, Activation::Identity, None, cx)
    }

    fn visit(&self, visitor: &mut Visitor) {
        visitor.parameter("weight", &self.weight);
        visitor.parameter("bias", &self.bias);
        visitor.buffer("running_mean", &self.running_mean);
        visitor.buffer("running_var", &self.running_var);
        visitor.buffer("num_batches_tracked", &self.num_batches_tracked);
    }
}
