//! Batch normalisation layer.
use crate::capture::LayerInfo;
use crate::{Context, Module, Visitor};
use fornax_engine::{Activation, BatchNorm, Collective, DType, Device, Result, Tensor};
use std::sync::Arc;

/// Hyperparameters of batch norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormOptions {
    /// Added to the variance.
    pub eps: f64,
    /// Weight of the batch in the running statistics. `None` gives a cumulative average over all batches.
    pub momentum: Option<f64>,
    /// Equal parts of a training batch that have parameters and statistics of their own, as timm's `SplitBatchNorm2d`.
    pub splits: usize,
}

impl Default for BatchNormOptions {
    fn default() -> Self {
        BatchNormOptions { eps: 1e-5, momentum: Some(0.1), splits: 1 }
    }
}

/// Batch normalisation over all axes but the last (Ioffe and Szegedy, 2015): `y = (x - mean) / sqrt(var + eps) * weight + bias`, followed
/// by an optional activation.
///
/// As in PyTorch, the biased variance normalises, the unbiased variance enters the running variance, and
/// `running = (1 - momentum) * running + momentum * batch`. Parameters and statistics are f32; the input is f32, f64, f16 or bf16.
///
/// With several splits, each part of a training batch is normalised by a layer of its own: the first by this one, the others by `aux_bn.0`
/// and so on. Evaluation uses this layer for all images.
pub struct BatchNorm2d {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor,
    options: BatchNormOptions,
    activation: Activation,
    info: LayerInfo,
    /// Layers of the splits after the first.
    aux: Vec<BatchNorm2d>,
}

impl BatchNorm2d {
    /// Batch norm over `channels` channels, with weight 1 and bias 0.
    pub fn new(channels: usize, options: BatchNormOptions) -> Result<BatchNorm2d> {
        let ones = || Tensor::ones([channels], DType::F32, &Device::Cpu);
        let zeros = || Tensor::zeros([channels], DType::F32, &Device::Cpu);
        Ok(BatchNorm2d {
            weight: ones()?.variable(),
            bias: zeros()?.variable(),
            running_mean: zeros()?,
            running_var: ones()?,
            num_batches_tracked: Tensor::zeros((), DType::I64, &Device::Cpu)?,
            options,
            activation: Activation::Identity,
            info: LayerInfo::new("BatchNorm2d"),
            aux: (1..options.splits)
                .map(|_| BatchNorm2d::new(channels, BatchNormOptions { splits: 1, ..options }))
                .collect::<Result<_>>()?,
        })
    }

    /// Adds an activation, as timm's `BatchNormAct2d`.
    pub fn with_activation(mut self, activation: Activation) -> BatchNorm2d {
        self.activation = activation;
        self.info = LayerInfo::new("BatchNormAct2d");
        self
    }

    /// `activation(norm(x) + residual)` as one fused operation. The layer's own activation, if any, replaces `activation`.
    pub fn forward_act(
        &self,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
        cx: &mut Context,
    ) -> Result<Tensor> {
        if self.is_split(cx) {
            return self.forward_splits(x, activation, residual, cx);
        }
        self.with_options(activation, x.dtype(), cx, |norm, activation| {
            x.batch_norm_act(norm, activation, residual)
        })
    }

    /// True if the parts of the batch are normalised separately, which excludes fusion with a convolution.
    pub(super) fn is_split(&self, cx: &Context) -> bool {
        !self.aux.is_empty() && cx.training()
    }

    fn forward_splits(
        &self,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
        cx: &mut Context,
    ) -> Result<Tensor> {
        let activation = if self.has_activation() { self.activation } else { activation };
        let (layers, batch) = (1 + self.aux.len(), x.shape()[0]);
        let parts = std::iter::once(self).chain(&self.aux).enumerate().map(|(i, layer)| {
            let (start, end) = (batch * i / layers, batch * (i + 1) / layers);
            let rows = end - start;
            let residual = residual.map(|residual| residual.narrow(0, start, rows)).transpose()?;
            let operands = BatchNormOperands { sync_group: None, ..layer.operands(x.dtype(), cx)? };
            let part = x.narrow(0, start, rows)?;
            let y = part.batch_norm_act(&operands.as_batch_norm(), activation, residual.as_ref())?;
            layer.store_statistics(&operands)?;
            Ok(y)
        });
        let parts = parts.collect::<Result<Vec<Tensor>>>()?;
        let y = Tensor::cat(&parts.iter().collect::<Vec<_>>(), 0)?;
        Ok(if self.has_activation() || activation == Activation::Identity {
            cx.capture(&self.info, y, 0)
        } else {
            y
        })
    }

    /// Calls `f` with the [operands](BatchNorm2d::operands) of the engine's batch norm for inputs of `dtype`, and with the activation.
    pub(super) fn with_options(
        &self,
        activation: Activation,
        dtype: DType,
        cx: &mut Context,
        f: impl FnOnce(&BatchNorm, Activation) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let has_activation = self.activation != Activation::Identity;
        let operands = self.operands(dtype, cx)?;
        let y = f(&operands.as_batch_norm(), if has_activation { self.activation } else { activation })?;
        self.store_statistics(&operands)?;
        // With the activation of another layer, the output belongs to that layer.
        Ok(if has_activation || activation == Activation::Identity {
            cx.capture(&self.info, y, 0)
        } else {
            y
        })
    }

    /// True if the layer applies an activation of its own.
    pub(super) fn has_activation(&self) -> bool {
        self.activation != Activation::Identity
    }

    /// Operands of the engine's batch norm for inputs of `dtype`. Updates `num_batches_tracked` in a training pass.
    pub(super) fn operands(&self, dtype: DType, cx: &Context) -> Result<BatchNormOperands> {
        let counts = cx.updates_statistics();
        let is_cumulative = self.options.momentum.is_none();
        if counts && is_cumulative {
            // The weight of a batch depends on the number, so the engine counts, beside the running statistics.
            self.num_batches_tracked.move_to(&self.running_mean.device())?;
        } else if counts {
            self.num_batches_tracked.write::<i64>()?[0] += 1;
        }
        // f16 and bf16 inputs use f32 parameters; f64, which is for tests, needs f64 parameters.
        let is_f64 = dtype == DType::F64;
        let converted = |t: &Tensor| if is_f64 { t.to_dtype(dtype) } else { Ok(t.clone()) };
        Ok(BatchNormOperands {
            parameters: [converted(&self.weight)?, converted(&self.bias)?],
            running: [converted(&self.running_mean)?, converted(&self.running_var)?],
            training: cx.training(),
            updates_statistics: cx.updates_statistics(),
            momentum: self.options.momentum.unwrap_or_default(),
            batches: (counts && is_cumulative).then(|| self.num_batches_tracked.clone()),
            eps: self.options.eps,
            sync_group: cx.sync_group().cloned(),
        })
    }

    /// Rounds running statistics that the engine has updated in f64 to f32.
    pub(super) fn store_statistics(&self, operands: &BatchNormOperands) -> Result<()> {
        let [mean, var] = &operands.running;
        if mean.dtype() != DType::F64 || !operands.updates_statistics {
            return Ok(());
        }
        self.running_mean.copy_from(&mean.to_dtype(DType::F32)?)?;
        self.running_var.copy_from(&var.to_dtype(DType::F32)?)
    }
}

/// Operands of the engine's batch norm.
pub(super) struct BatchNormOperands {
    /// Weight and bias.
    parameters: [Tensor; 2],
    /// Running mean and variance.
    running: [Tensor; 2],
    training: bool,
    updates_statistics: bool,
    momentum: f64,
    /// Number of batches, if the engine counts them.
    batches: Option<Tensor>,
    eps: f64,
    /// Ranks whose statistics are merged.
    sync_group: Option<Arc<dyn Collective>>,
}

impl BatchNormOperands {
    pub(super) fn as_batch_norm(&self) -> BatchNorm<'_> {
        let ([weight, bias], [mean, var]) = (&self.parameters, &self.running);
        BatchNorm {
            weight: Some(weight),
            bias: Some(bias),
            // A recomputation for the backward pass must not update them again.
            running: (self.updates_statistics || !self.training).then_some((mean, var)),
            training: self.training,
            momentum: self.momentum,
            num_batches_tracked: self.batches.as_ref(),
            eps: self.eps,
            sync_group: self.sync_group.as_ref(),
        }
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
        for (i, layer) in self.aux.iter().enumerate() {
            visitor.child(&format!("aux_bn.{i}"), layer);
        }
    }

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}
