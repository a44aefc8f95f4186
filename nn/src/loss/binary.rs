//! Every class a question of its own.
use super::Loss;
use super::target::{classes_of, smoothed};
use fornax_engine::{DType, Result, Tensor};

/// Binary cross entropy of each class by itself, with what timm's `BinaryCrossEntropy` does to its target: class indices `[n]` (i64) or
/// labels `[n, classes]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BinaryCrossEntropy {
    /// Label smoothing of class indices; a dense target is taken as it is.
    pub smoothing: f64,
    /// Labels above it become 1, all others 0.
    pub target_threshold: Option<f64>,
    /// Sums over classes before the mean over the batch.
    pub sum_classes: bool,
    /// Factor of the positive term.
    pub pos_weight: Option<f64>,
}

impl Default for BinaryCrossEntropy {
    /// timm's defaults: smoothing 0.1, mean over all elements.
    fn default() -> Self {
        BinaryCrossEntropy { smoothing: 0.1, target_threshold: None, sum_classes: false, pos_weight: None }
    }
}

impl Loss for BinaryCrossEntropy {
    fn forward(&self, logits: &Tensor, target: &Tensor) -> Result<Tensor> {
        let mut labels = match target.dtype() {
            DType::I64 => smoothed(target, classes_of(logits)?, self.smoothing, logits.dtype())?,
            _ => target.clone(),
        };
        if let Some(threshold) = self.target_threshold {
            labels = labels.greater(threshold)?;
        }
        logits.binary_cross_entropy(&labels, self.pos_weight.unwrap_or(1.0), self.sum_classes)
    }
    fn prepare(&self, target: &Tensor, classes: usize) -> Result<Tensor> {
        match target.dtype() {
            DType::I64 => smoothed(target, classes, self.smoothing, DType::F32),
            _ => Ok(target.clone()),
        }
    }
}
