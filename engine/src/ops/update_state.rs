//! What updates read and write beside parameters, in the device's memory: a recorded step that is replayed follows it.
use crate::fuse::UpdateRule;
use crate::fuse::update::MAX_MEMORY;
use crate::{DType, Device, Result, Tensor};

/// Dynamic loss scaling for f16 (Micikevicius et al., "Mixed precision training", 2018), as PyTorch's `GradScaler` does it: an update
/// whose gradients overflow is skipped and the scale multiplied by `backoff`; after `interval` updates without one, by `growth`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaling {
    /// The first scale.
    pub init: f32,
    /// Above 1.
    pub growth: f32,
    /// Below 1.
    pub backoff: f32,
    /// Updates without overflow before the scale grows.
    pub interval: u32,
    /// The scale falls no further.
    pub floor: f32,
}

impl Default for LossScaling {
    fn default() -> Self {
        LossScaling { init: 65536.0, growth: 2.0, backoff: 0.5, interval: 2000, floor: 1.0 }
    }
}

/// What an update does to gradients before the rule sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradientRule {
    /// Gradients are those of the loss times a scale.
    pub scaling: Option<LossScaling>,
    /// Gradients are limited.
    pub clip: Option<Clip>,
}

/// How gradients are limited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// All are multiplied by `limit / (norm + 1e-6)` where the norm of all of them exceeds the limit.
    Norm(f32),
    /// Each element is clamped to `-limit..=limit`.
    Value(f32),
    /// Adaptive clipping (Brock et al., "High-performance large-scale image recognition without normalization", 2021): the gradient of each
    /// unit, a slice of a parameter's first axis or a parameter of one axis, has at most so many times the norm of its weights, or of
    /// 1e-3 where that is more.
    Units(f32),
}

impl GradientRule {
    /// True when gradients are to be read once before the update.
    pub const fn looks(&self) -> bool {
        self.scaling.is_some() || matches!(self.clip, Some(Clip::Norm(_) | Clip::Units(_)))
    }
}

/// How an update went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateReport {
    /// Norm of all gradients, without the loss scale and before clipping; `None` when nothing asked for it.
    pub norm: Option<f32>,
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
    looks: bool,
    /// f32 `[NUMBERS]`.
    numbers: Tensor,
    /// i64, a scalar: updates done, without those that were skipped.
    updates: Tensor,
    /// Counts blocks of kernels that end; 0 between launches.
    ticket: Tensor,
}

/// Where each number stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    /// Learning rate, which the host writes before a step.
    Rate,
    /// What stays of averaged weights, which the host writes before a step.
    EmaDecay,
    LossScale,
    /// Updates since the last overflow or growth.
    GoodUpdates,
    /// What gradients are multiplied by.
    Factor,
    /// 1 to leave parameters as they are.
    Skip,
    /// Of the gradients, unscaled.
    Norm,
    /// The norm of what clipping leaves.
    ClippedNorm,
    /// The first of the numbers that a rule keeps for all parameters.
    Memory,
}

pub(crate) const NUMBERS: usize = Number::Memory as usize + MAX_MEMORY;

impl UpdateState {
    /// The state before the first update by a rule.
    pub fn new(gradients: GradientRule, rule: &UpdateRule, device: &Device) -> Result<UpdateState> {
        let mut numbers = [0.0f32; NUMBERS];
        numbers[Number::LossScale as usize] = gradients.scaling.map_or(1.0, |s| s.init);
        numbers[Number::Factor as usize] = 1.0;
        for (number, (_, first)) in numbers[Number::Memory as usize..].iter_mut().zip(&rule.keeps().memory) {
            *number = *first;
        }
        Ok(UpdateState {
            rule: gradients,
            looks: gradients.looks() || rule.reads_norm(),
            numbers: Tensor::from_slice(&numbers, [NUMBERS])?.to_device(device)?,
            updates: Tensor::zeros((), DType::I64, device)?,
            ticket: Tensor::zeros((), DType::I64, device)?,
        })
    }

    /// Sets the learning rate and what stays of averaged weights in the next update. Not to be recorded: it is what changes between replays.
    pub fn set_rates(&self, lr: f64, ema_decay: f64) -> Result<()> {
        let rates = Tensor::from_slice(&[lr as f32, ema_decay as f32], [2])?;
        self.numbers.view(0, [2].into()).copy_from(&rates)
    }

    /// What the backward pass of a loss starts from: the loss scale, a scalar.
    pub fn upstream(&self) -> Tensor {
        self.numbers.view(Number::LossScale as usize, ().into())
    }

    /// The loss scale and the updates since it last changed, f32 `[2]`, to be saved and restored.
    pub fn loss_scale(&self) -> Tensor {
        self.numbers.view(Number::LossScale as usize, [2].into())
    }

    /// Updates done, an i64 scalar, to be saved and restored.
    pub fn updates(&self) -> &Tensor {
        &self.updates
    }

    /// A number that the rule keeps for all parameters, an f32 scalar, to be saved and restored.
    pub fn memory(&self, i: usize) -> Tensor {
        self.numbers.view(Number::Memory as usize + i, ().into())
    }

    /// How the last update went; waits for it.
    pub fn report(&self) -> Result<UpdateReport> {
        let numbers = self.numbers.read::<f32>()?;
        let number = |n: Number| numbers[n as usize];
        Ok(UpdateReport {
            norm: self.looks.then(|| number(Number::Norm)),
            skipped: number(Number::Skip) != 0.0,
            loss_scale: number(Number::LossScale),
        })
    }

    pub(crate) fn rule(&self) -> &GradientRule {
        &self.rule
    }

    pub(crate) fn ticket(&self) -> &Tensor {
        &self.ticket
    }

    pub(crate) fn numbers(&self) -> &Tensor {
        &self.numbers
    }
}
