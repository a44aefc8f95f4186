//! Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) over a batch; the caller supplies the random numbers.
//!
//! As in timm, sample `i` is mixed with sample `n - 1 - i` of the original batch.
use fornax_engine::{Result, Tensor};

/// Rows `top..bottom` and columns `left..right` of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelBox {
    /// First row.
    pub top: usize,
    /// One past the last row.
    pub bottom: usize,
    /// First column.
    pub left: usize,
    /// One past the last column.
    pub right: usize,
}

/// Mixup: `lam * x + (1 - lam) * x.flip(0)`.
pub fn mixup_batch(x: &Tensor, lam: f64) -> Result<Tensor> {
    x.mul_scalar(lam)?.add(&x.flip(0)?.mul_scalar(1.0 - lam)?)
}

/// CutMix: the batch `[n, h, w, c]` with the pixels of the box taken from `x.flip(0)`.
pub fn cutmix_batch(x: &Tensor, cut: &PixelBox) -> Result<Tensor> {
    let (h, w) = (x.dims()[1], x.dims()[2]);
    let band = |x: &Tensor| x.narrow(1, cut.top, cut.bottom - cut.top);
    let (own, partner) = (band(x)?, band(&x.flip(0)?)?);
    let mixed = Tensor::concat(
        &[
            &own.narrow(2, 0, cut.left)?,
            &partner.narrow(2, cut.left, cut.right - cut.left)?,
            &own.narrow(2, cut.right, w - cut.right)?,
        ],
        2,
    )?;
    Tensor::concat(&[&x.narrow(1, 0, cut.top)?, &mixed, &x.narrow(1, cut.bottom, h - cut.bottom)?], 1)
}

/// CutMix box centred at (`cy`, `cx`) of an `h × w` image for a mixing ratio `lam`, clipped to the image, and `lam` corrected to the
/// clipped area.
pub fn cutmix_box(h: usize, w: usize, lam: f64, cy: usize, cx: usize) -> (PixelBox, f64) {
    let ratio = (1.0 - lam).sqrt();
    let side = |size: usize, centre: usize| {
        let cut = (size as f64 * ratio) as usize;
        (centre.saturating_sub(cut / 2), (centre + cut.div_ceil(2)).min(size))
    };
    let ((top, bottom), (left, right)) = (side(h, cy), side(w, cx));
    let area = (bottom - top) * (right - left);
    (PixelBox { top, bottom, left, right }, 1.0 - area as f64 / (h * w) as f64)
}
