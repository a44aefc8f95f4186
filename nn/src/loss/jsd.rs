//! Cross entropy with Jensen-Shannon consistency between augmentation splits.
use super::Loss;
use fornax_engine::{Error, Result, Tensor};

/// Cross entropy plus a Jensen-Shannon consistency term over augmentation splits (Hendrycks et al., AugMix, 2020), as timm's
/// `JsdCrossEntropy`. Logits are `[splits * n, classes]`; the target is class indices `[splits * n]` (i64), of which only the first `n`
/// are used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JsdCrossEntropy {
    /// Number of equal parts of the batch. The first is the clean split.
    pub num_splits: usize,
    /// Weight of the consistency term.
    pub alpha: f64,
    /// Label smoothing of the cross entropy.
    pub smoothing: f64,
}

impl Loss for JsdCrossEntropy {
    fn forward(&self, logits: &Tensor, target: &Tensor) -> Result<Tensor> {
        let operands = [("logits", logits), ("target", target)];
        let rows = logits.dims().first().copied().unwrap_or_default();
        if self.num_splits < 2 || rows % self.num_splits != 0 {
            return Err(Error::shape(
                "jsd_cross_entropy",
                &operands,
                format!("needs at least 2 splits of equal size, not {} of {rows} rows", self.num_splits),
            ));
        }
        let n = rows / self.num_splits;
        let part = |i: usize| logits.narrow(0, i * n, n);
        let loss = part(0)?.cross_entropy(&target.narrow(0, 0, n)?, self.smoothing)?;
        let log_probs: Vec<Tensor> =
            (0..self.num_splits).map(|i| part(i)?.log_softmax(1)).collect::<Result<_>>()?;
        let probs: Vec<Tensor> = log_probs.iter().map(Tensor::exp).collect::<Result<_>>()?;
        let mut mixture = probs[0].clone();
        for p in &probs[1..] {
            mixture = mixture.add(p)?;
        }
        let log_mixture = mixture.mul_scalar(1.0 / self.num_splits as f64)?.clamp(1e-7, 1.0)?.log()?;
        let mut divergence = Tensor::zeros((), logits.dtype(), &logits.device())?;
        for (p, log_p) in probs.iter().zip(&log_probs) {
            divergence = divergence.add(&p.mul(&log_p.sub(&log_mixture)?)?.sum_all()?)?;
        }
        loss.add(&divergence.mul_scalar(self.alpha / (n * self.num_splits) as f64)?)
    }
}
