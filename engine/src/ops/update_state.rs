//! What updates read and write beside parameters, in the device's memory: a recorded step that is replayed follows it.
use crate::fuse::UpdateRule;
use crate::fuse::update::MAX_SHARED_SCALARS;
use crate::{DType, Device, Result, Tensor};

/// Dynamic loss scaling for f16 (Micikevicius et al., "Mixed precision training", 2018), as PyTorch's `GradScaler` does it: an update
/// whose gradients overflow is skipped and the scale multiplied by `backoff`; after `interval` updates without one, by `growth`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaling {
    /// The first scale.
    pub init_scale: f32,
    /// Above 1.
    pub growth_factor: f32,
    /// Below 1.
    pub backoff_factor: f32,
    /// Updates without overflow before the scale grows.
    pub growth_interval: u32,
    /// The scale falls no further.
    pub min_scale: f32,
}

impl Default for LossScaling {
    fn default() -> Self {
        LossScaling {
            init_scale: 65536.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
            min_scale: 1.0,
        }
    }
}

/// What an update does to gradients before the rule sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradientRule {
    /// Gradients are those of the loss times a scale.
    pub scaling: Option<LossScaling>,
    /// Gradients are limited.
    pub clip: Option<GradClip>,
}

/// How gradients are limited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GradClip {
    /// All are multiplied by `limit / (norm + 1e-6)` where the norm of all of them exceeds the limit.
    Norm(f32),
    /// Each element is clamped to `-limit..=limit`.
    Value(f32),
    /// Adaptive clipping (Brock et al., "High-performance large-scale image recognition without normalization", 2021): the gradient of each
    /// unit, a slice of a parameter's first axis or a parameter of one axis, has at most so many times the norm of its weights, or of
    /// 1e-3 where that is more.
    Agc(f32),
}

impl GradientRule {
    /// True when gradients are to be read once before the update.
    pub const fn computes_grad_norm(&self) -> bool {
        self.scaling.is_some() || matches!(self.clip, Some(GradClip::Norm(_) | GradClip::Agc(_)))
    }
}

/// How an update went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateStats {
    /// Norm of all gradients, without the loss scale and before clipping; `None` when nothing asked for it.
    pub grad_norm: Option<f32>,
    /// The update was skipped, because a gradient was not finite.
    pub skipped: bool,
    /// The scale that the next loss gets.
    pub loss_scale: f32,
}

/// Rates, loss scale and counters of updates on one device.
#[derive(Clone, Debug)]
pub struct UpdateState {
    rule: GradientRule,
    /// Somebody reads all gradients before the update.
    computes_grad_norm: bool,
    /// f32 `[NUMBERS]`.
    scalars: Tensor,
    /// i64, a scalar: updates done, without those that were skipped.
    updates: Tensor,
    /// Counts blocks of kernels that end; 0 between launches.
    ticket: Tensor,
}

/// Where each number stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpdateScalar {
    /// Learning rate, which the host writes before a step.
    Lr,
    /// What stays of averaged weights, which the host writes before a step.
    EmaDecay,
    LossScale,
    /// Updates since the last overflow or growth.
    GrowthTracker,
    /// What gradients are multiplied by.
    GradFactor,
    /// 1 to leave parameters as they are.
    Skip,
    /// Of the gradients, unscaled.
    GradNorm,
    /// The norm of what clipping leaves.
    ClippedNorm,
    /// The first of the numbers that a rule keeps for all parameters.
    SharedScalars,
}

pub(crate) const UPDATE_SCALARS: usize = UpdateScalar::SharedScalars as usize + MAX_SHARED_SCALARS;

impl UpdateState {
    /// The state before the first update by a rule.
    pub fn new(gradients: GradientRule, rule: &UpdateRule, device: &Device) -> Result<UpdateState> {
        let mut numbers = [0.0f32; UPDATE_SCALARS];
        numbers[UpdateScalar::LossScale as usize] = gradients.scaling.map_or(1.0, |s| s.init_scale);
        numbers[UpdateScalar::GradFactor as usize] = 1.0;
        for (number, (_, first)) in
            numbers[UpdateScalar::SharedScalars as usize..].iter_mut().zip(&rule.state_spec().shared_scalars)
        {
            *number = *first;
        }
        Ok(UpdateState {
            rule: gradients,
            computes_grad_norm: gradients.computes_grad_norm() || rule.reads_norm(),
            scalars: Tensor::from_slice(&numbers, [UPDATE_SCALARS])?.to_device(device)?,
            updates: Tensor::zeros((), DType::I64, device)?,
            ticket: Tensor::zeros((), DType::I64, device)?,
        })
    }

    /// Sets the learning rate and what stays of averaged weights in the next update. Not to be recorded: it is what changes between replays.
    pub fn set_lr(&self, lr: f64, ema_decay: f64) -> Result<()> {
        let rates = Tensor::from_slice(&[lr as f32, ema_decay as f32], [2])?;
        self.scalars.view(0, [2].into()).copy_from(&rates)
    }

    /// What the backward pass of a loss starts from: the loss scale, a scalar.
    pub fn upstream(&self) -> Tensor {
        self.scalars.view(UpdateScalar::LossScale as usize, ().into())
    }

    /// The loss scale and the updates since it last changed, f32 `[2]`, to be saved and restored.
    pub fn loss_scale(&self) -> Tensor {
        self.scalars.view(UpdateScalar::LossScale as usize, [2].into())
    }

    /// Updates done, an i64 scalar, to be saved and restored.
    pub fn updates(&self) -> &Tensor {
        &self.updates
    }

    /// A number that the rule keeps for all parameters, an f32 scalar, to be saved and restored.
    pub fn shared_scalar(&self, i: usize) -> Tensor {
        self.scalars.view(UpdateScalar::SharedScalars as usize + i, ().into())
    }

    /// How the last update went; waits for it.
    pub fn stats(&self) -> Result<UpdateStats> {
        let numbers = self.scalars.read::<f32>()?;
        let number = |n: UpdateScalar| numbers[n as usize];
        Ok(UpdateStats {
            grad_norm: self.computes_grad_norm.then(|| number(UpdateScalar::GradNorm)),
            skipped: number(UpdateScalar::Skip) != 0.0,
            loss_scale: number(UpdateScalar::LossScale),
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
