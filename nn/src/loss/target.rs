//! Dense targets: one-hot, smoothed or mixed.
use fornax_engine::{DType, Device, Error, Result, Tensor};

/// Targets of a batch mixed with its reverse, as timm's `mixup_target`: `lam * y + (1 - lam) * flip(y)` with smoothed one-hot rows `y`.
/// Class indices `[n]` (i64) give `[n, classes]` (f32); on = `1 - s + s / classes`, off = `s / classes`.
pub fn mixup_target(target: &Tensor, classes: usize, lam: f64, smoothing: f64) -> Result<Tensor> {
    // In f64, which only the CPU supports, so that rows sum to one.
    let rows = smoothed(&target.to_device(&Device::Cpu)?, classes, smoothing, DType::F64)?;
    let mixed = rows.mul_scalar(lam)?.add(&rows.flip(0)?.mul_scalar(1.0 - lam)?)?;
    mixed.to_dtype(DType::F32)?.to_device(&target.device())
}

/// Smoothed one-hot rows.
pub(super) fn smoothed(target: &Tensor, classes: usize, smoothing: f64, dtype: DType) -> Result<Tensor> {
    let off = smoothing / classes as f64;
    target.one_hot(classes, 1.0 - smoothing + off, off, dtype)
}

pub(super) fn classes_of(logits: &Tensor) -> Result<usize> {
    match logits.dims() {
        &[_, classes] if classes > 0 => Ok(classes),
        _ => Err(Error::shape("loss", &[("logits", logits)], "logits must be [n, classes]")),
    }
}
