//! Binary cross entropy.
use super::Loss;
use super::target::{classes_of, smoothed};
use fornax_engine::{DType, Result, Tensor};

/// Binary cross entropy with logits, as timm's `BinaryCrossEntropy`. Logits are `[n, classes]`; the target is class indices `[n]` (i64) or
/// dense labels `[n, classes]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BinaryCrossEntropy {
    /// Label smoothing of class indices; dense labels are used unchanged.
    pub smoothing: f64,
    /// Threshold of the labels: labels above it become 1, all others 0.
    pub target_threshold: Option<f64>,
    /// Sum over classes, then mean over the batch; instead of the mean over all elements.
    pub sum_classes: bool,
    /// Weight of the positive term: PyTorch's `pos_weight`.
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
