//! Scalar state of optimizer updates, and their statistics. The state is in device memory, so that the replay of a CUDA
//! graph reads its current values.
use crate::cuda::PendingRead;
use crate::fuse::{GradientRule, UPDATE_SCALARS, UpdateRule, UpdateScalar};
use crate::{DType, Device, Result, Shape, Tensor};

/// Statistics of the last update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateStats {
    /// Norm of all gradients, unscaled and before clipping; `None` if it was not computed.
    pub grad_norm: Option<f32>,
    /// True if the update was skipped because a gradient was not finite.
    pub skipped: bool,
    /// Loss scale for the next step.
    pub loss_scale: f32,
}

/// Statistics of an update that may not be finished yet.
pub struct PendingUpdateStats {
    scalars: PendingRead<f32>,
    computes_grad_norm: bool,
}

impl PendingUpdateStats {
    /// Waits for the update and returns its statistics.
    pub fn wait(self) -> Result<UpdateStats> {
        let scalars = self.scalars.wait()?;
        let scalar = |which: UpdateScalar| scalars[which as usize];
        Ok(UpdateStats {
            grad_norm: self.computes_grad_norm.then(|| scalar(UpdateScalar::GradNorm)),
            skipped: scalar(UpdateScalar::Skip) != 0.0,
            loss_scale: scalar(UpdateScalar::LossScale),
        })
    }
}

/// State of an optimizer's updates on one device: learning rate, EMA decay, loss scale and counters.
#[derive(Clone, Debug)]
pub struct UpdateState {
    rule: GradientRule,
    /// A pass before the update computes the gradient norm.
    computes_grad_norm: bool,
    /// f32 `[UPDATE_SCALARS]`, indexed by [`UpdateScalar`].
    scalars: Tensor,
    /// i64 scalar: number of updates that were not skipped.
    updates: Tensor,
    /// i64 scalar: counts finished blocks during a launch, 0 between launches.
    ticket: Tensor,
}

impl UpdateState {
    /// The state before the first update by a rule.
    pub fn new(gradients: GradientRule, rule: &UpdateRule, device: &Device) -> Result<UpdateState> {
        let mut scalars = [0.0f32; UPDATE_SCALARS];
        scalars[UpdateScalar::LossScale as usize] = gradients.scaling.map_or(1.0, |s| s.init_scale);
        scalars[UpdateScalar::GradFactor as usize] = 1.0;
        for (number, (_, first)) in
            scalars[UpdateScalar::SharedScalars as usize..].iter_mut().zip(&rule.state_spec().shared_scalars)
        {
            *number = *first;
        }
        Ok(UpdateState {
            rule: gradients,
            computes_grad_norm: gradients.computes_grad_norm() || rule.reads_norm(),
            scalars: Tensor::from_slice(&scalars, [UPDATE_SCALARS])?.to_device(device)?,
            updates: Tensor::zeros((), DType::I64, device)?,
            ticket: Tensor::zeros((), DType::I64, device)?,
        })
    }

    /// Sets the learning rate and the EMA decay of the next update. Not to be captured in a CUDA graph: call it between replays.
    pub fn set_lr(&self, lr: f64, ema_decay: f64) -> Result<()> {
        let values = Tensor::from_slice(&[lr as f32, (1.0 - ema_decay) as f32], [2])?;
        self.scalars.view(0, Shape::must_fit(&[2])).copy_from(&values)
    }

    /// Upstream gradient of the loss: the loss scale, a scalar.
    pub fn upstream(&self) -> Tensor {
        self.scalars.view(UpdateScalar::LossScale as usize, Shape::default())
    }

    /// The loss scale and the updates since it last changed, f32 `[2]`, for checkpoints.
    pub fn loss_scale(&self) -> Tensor {
        self.scalars.view(UpdateScalar::LossScale as usize, Shape::must_fit(&[2]))
    }

    /// The number of updates that were not skipped, an i64 scalar, for checkpoints.
    pub fn updates(&self) -> &Tensor {
        &self.updates
    }

    /// Scalar `i` of the rule's state that all parameters share, an f32 scalar, for checkpoints.
    pub fn shared_scalar(&self, i: usize) -> Tensor {
        self.scalars.view(UpdateScalar::SharedScalars as usize + i, Shape::default())
    }

    /// The learning rate, an f32 scalar.
    pub fn lr(&self) -> Tensor {
        self.scalars.view(UpdateScalar::Lr as usize, Shape::default())
    }

    /// 1 after an update, 0 after one that was skipped: an f32 scalar.
    pub fn applied(&self) -> Result<Tensor> {
        self.scalars.view(UpdateScalar::Skip as usize, Shape::default()).affine(-1.0, 1.0)
    }

    /// Statistics of the last update. Waits for it to finish.
    pub fn stats(&self) -> Result<UpdateStats> {
        self.stats_later()?.wait()
    }

    /// Statistics of the last update, without waiting for it to finish.
    pub fn stats_later(&self) -> Result<PendingUpdateStats> {
        Ok(PendingUpdateStats {
            scalars: self.scalars.read_later()?,
            computes_grad_norm: self.computes_grad_norm,
        })
    }

    pub(crate) fn rule(&self) -> &GradientRule {
        &self.rule
    }

    pub(crate) fn ticket(&self) -> &Tensor {
        &self.ticket
    }

    pub(crate) fn scalars(&self) -> &Tensor {
        &self.scalars
    }
}
