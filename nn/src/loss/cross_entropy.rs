//! Softmax cross entropy.
use super::Loss;
use fornax_engine::{DType, Result, Tensor};

/// Softmax cross entropy of logits `[n, classes]`, as timm's `LabelSmoothingCrossEntropy` and `SoftTargetCrossEntropy`. The target is class
/// indices `[n]` (i64), with label smoothing (Szegedy et al., 2016), or probabilities `[n, classes]`, as mixup and cutmix produce, which
/// are used unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    /// Label smoothing of class indices.
    pub smoothing: f64,
}

impl Loss for CrossEntropy {
    fn forward(&self, logits: &Tensor, target: &Tensor) -> Result<Tensor> {
        match target.dtype() {
            DType::I64 => logits.cross_entropy(target, self.smoothing),
            _ => logits.soft_target_cross_entropy(target),
        }
    }
}
