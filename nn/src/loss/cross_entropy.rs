//! Cross entropy of the softmax.
use super::Loss;
use fornax_engine::{DType, Result, Tensor};

/// Cross entropy, with label smoothing against class indices (Szegedy et al., 2016); against rows of probabilities, which mixing makes
/// and which are taken as they are, it is the cross entropy of those.
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
