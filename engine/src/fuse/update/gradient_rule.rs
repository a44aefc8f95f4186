//! Loss scaling and gradient clipping, which come before an optimizer's rule.

/// Dynamic loss scaling for f16 (Micikevicius et al., "Mixed precision training", 2018), as by PyTorch's `GradScaler`: an update whose
/// gradients overflow is skipped, and the scale is multiplied by `backoff_factor`; after `growth_interval` updates without overflow it is
/// multiplied by `growth_factor`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossScaling {
    /// Initial loss scale.
    pub init_scale: f32,
    /// Factor of the scale when it grows, above 1.
    pub growth_factor: f32,
    /// Factor of the scale after an overflow, below 1.
    pub backoff_factor: f32,
    /// Consecutive updates without overflow before the scale grows.
    pub growth_interval: u32,
    /// Lower bound of the scale.
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

/// Gradient processing before the optimizer rule: unscaling and clipping.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GradientRule {
    /// Dynamic loss scaling.
    pub scaling: Option<LossScaling>,
    /// Gradient clipping.
    pub clip: Option<GradClip>,
}

/// Gradient clipping mode and threshold; timm's `--clip-mode`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GradClip {
    /// By norm: gradients are multiplied by `min(1, limit / (norm + 1e-6))`, with the norm of all gradients together.
    Norm(f32),
    /// By value: each element is clamped to `-limit..=limit`.
    Value(f32),
    /// Adaptive gradient clipping (AGC; Brock et al., "High-performance large-scale image recognition without normalization", 2021): the
    /// gradient norm of each unit is limited to `limit * max(norm of its weights, 1e-3)`. A unit is a slice of a parameter's first axis, or
    /// a whole parameter of one axis.
    Agc(f32),
}

impl GradientRule {
    /// True when a pass over all gradients before the update computes their norm, and whether they are finite.
    pub const fn computes_grad_norm(&self) -> bool {
        self.scaling.is_some() || matches!(self.clip, Some(GradClip::Norm(_) | GradClip::Agc(_)))
    }
}
