//! Losses of classifiers, with timm's conventions, and accuracy.
use fornax_engine::{DType, Device, Error, Result, Tensor};

/// Targets of a mixed batch: smoothed one-hot rows `y`, blended as `lam * y + (1 - lam) * reversed batch of y`.
/// Class indices `[n]` to `[n, classes]` of f32; on = `1 - s + s / classes`, off = `s / classes`.
pub fn mixup_target(target: &Tensor, classes: usize, lam: f64, smoothing: f64) -> Result<Tensor> {
    // In f64, which only the CPU has, so that rows add up to one.
    let rows = smoothed(&target.to_device(&Device::Cpu)?, classes, smoothing, DType::F64)?;
    let mixed = rows.scale(lam)?.add(&rows.flip(0)?.scale(1.0 - lam)?)?;
    mixed.to_dtype(DType::F32)?.to_device(&target.device())
}

/// Binary cross entropy with what timm's `BinaryCrossEntropy` does to its target.
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

impl BinaryCrossEntropy {
    /// The loss of logits `[n, classes]` against class indices `[n]` (i64) or labels `[n, classes]`.
    pub fn forward(&self, logits: &Tensor, target: &Tensor) -> Result<Tensor> {
        let mut labels = match target.dtype() {
            DType::I64 => smoothed(target, classes_of(logits)?, self.smoothing, logits.dtype())?,
            _ => target.clone(),
        };
        if let Some(threshold) = self.target_threshold {
            labels = labels.greater(threshold)?;
        }
        logits.binary_cross_entropy(&labels, self.pos_weight.unwrap_or(1.0), self.sum_classes)
    }
}

/// Cross entropy plus a Jensen-Shannon consistency term over augmentation splits (Hendrycks et al., AugMix, 2020).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JsdCrossEntropy {
    /// Equal parts of the batch; the first is the clean one.
    pub num_splits: usize,
    /// Weight of the consistency term.
    pub alpha: f64,
    /// Label smoothing of the cross entropy.
    pub smoothing: f64,
}

impl JsdCrossEntropy {
    /// The loss of logits `[splits * n, classes]` against class indices `[splits * n]` (i64); only the first `n` are used.
    pub fn forward(&self, logits: &Tensor, target: &Tensor) -> Result<Tensor> {
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
        let log_mixture = mixture.scale(1.0 / self.num_splits as f64)?.clamp(1e-7, 1.0)?.ln()?;
        let mut divergence = Tensor::zeros((), logits.dtype(), &logits.device())?;
        for (p, log_p) in probs.iter().zip(&log_probs) {
            divergence = divergence.add(&p.mul(&log_p.sub(&log_mixture)?)?.sum_all()?)?;
        }
        loss.add(&divergence.scale(self.alpha / (n * self.num_splits) as f64)?)
    }
}

/// How many rows of logits `[n, classes]` have their class (i64, `[n]`) among the `k` largest; `k` is limited to the classes.
/// The lower class wins a tie.
pub fn top_k_correct(logits: &Tensor, target: &Tensor, k: usize) -> Result<usize> {
    let classes = classes_of(logits)?;
    let (best, target) = (logits.detach().top_k(k.min(classes), 1, false)?.1, target.read::<i64>()?);
    let best = best.read::<i64>()?;
    Ok(best.chunks_exact(k.min(classes)).zip(target.iter()).filter(|(best, t)| best.contains(t)).count())
}

fn classes_of(logits: &Tensor) -> Result<usize> {
    match logits.dims() {
        &[_, classes] if classes > 0 => Ok(classes),
        _ => Err(Error::shape("loss", &[("logits", logits)], "logits must be [n, classes]")),
    }
}

fn smoothed(target: &Tensor, classes: usize, smoothing: f64, dtype: DType) -> Result<Tensor> {
    let off = smoothing / classes as f64;
    target.one_hot(classes, 1.0 - smoothing + off, off, dtype)
}
