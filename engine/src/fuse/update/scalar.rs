//! Scalars that optimizer updates read from memory.
use super::formula::MAX_SHARED_SCALARS;

/// Index of a scalar in the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UpdateScalar {
    /// Learning rate; the host writes it before a step.
    Lr,
    /// 1 - EMA decay; the host writes it before a step. In f32 the decay itself would lose the last digits of this difference.
    EmaComplement,
    /// Current loss scale.
    LossScale,
    /// Updates since the last overflow or growth of the loss scale.
    GrowthTracker,
    /// Factor of the gradients: unscaling and clipping by norm.
    GradFactor,
    /// 1 if the update is skipped, else 0.
    Skip,
    /// Norm of the unscaled gradients.
    GradNorm,
    /// Norm of the clipped gradients.
    ClippedNorm,
    /// First of the rule's scalars that all parameters share.
    SharedScalars,
}

/// Number of scalars in the state.
pub(crate) const UPDATE_SCALARS: usize = UpdateScalar::SharedScalars as usize + MAX_SHARED_SCALARS;
