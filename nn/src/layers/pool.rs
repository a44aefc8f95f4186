//! Pooling layers.
use crate::observe::Label;
use crate::{Context, Module, Visitor};
use fornax_engine::{GlobalPool, Pool2dOptions, Result, Tensor};

/// Largest value of each window.
pub struct MaxPool2d {
    pool: Pool2dOptions,
    label: Label,
}

impl MaxPool2d {
    /// Over these windows.
    pub const fn new(pool: Pool2dOptions) -> MaxPool2d {
        MaxPool2d { pool, label: Label::new("MaxPool2d") }
    }
}

impl Module for MaxPool2d {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let y = x.max_pool2d(&self.pool)?;
        Ok(cx.observed(&self.label, y, 0))
    }
    fn visit(&self, _: &mut Visitor) {}
    fn label(&self) -> Option<&Label> {
        Some(&self.label)
    }
}

/// Mean of each window; padding does not count.
pub struct AvgPool2d {
    pool: Pool2dOptions,
    same: bool,
    label: Label,
}

impl AvgPool2d {
    /// Over these windows.
    pub const fn new(pool: Pool2dOptions) -> AvgPool2d {
        AvgPool2d { pool, same: false, label: Label::new("AvgPool2d") }
    }

    /// 2×2 windows at stride 1 over the image with a row and a column of zeros after it, which count: the size stays (timm's
    /// `AvgPool2dSame`).
    pub fn keeping_size() -> AvgPool2d {
        let pool = Pool2dOptions { kernel: [2, 2], stride: [1, 1], ..Pool2dOptions::default() };
        AvgPool2d { pool, same: true, label: Label::new("AvgPool2d") }
    }
}

impl Module for AvgPool2d {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let padded = match self.same {
            true => &x.pad(&[(0, 0), (0, 1), (0, 1), (0, 0)], 0.0)?,
            false => x,
        };
        let y = padded.avg_pool2d(&self.pool, false)?;
        Ok(cx.observed(&self.label, y, 0))
    }
    fn visit(&self, _: &mut Visitor) {}
    fn label(&self) -> Option<&Label> {
        Some(&self.label)
    }
}

/// Pools all pixels: `[n, h, w, c]` to `[n, c]`, or twice the channels for [`GlobalPool::CatAvgMax`]; or leaves them as they are.
pub struct SelectAdaptivePool2d {
    /// `None` for no pooling.
    pub kind: Option<GlobalPool>,
    label: Label,
}

impl SelectAdaptivePool2d {
    /// Of this kind.
    pub const fn new(kind: Option<GlobalPool>) -> SelectAdaptivePool2d {
        SelectAdaptivePool2d { kind, label: Label::new("GlobalPool") }
    }

    /// Channels that come out for each that goes in.
    pub fn multiplier(&self) -> usize {
        match self.kind {
            Some(GlobalPool::CatAvgMax | GlobalPool::FastCatAvgMax) => 2,
            _ => 1,
        }
    }
}

impl Module for SelectAdaptivePool2d {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let y = self.kind.map_or(Ok(x.clone()), |kind| x.global_pool(kind))?;
        Ok(cx.observed(&self.label, y, 0))
    }
    fn visit(&self, _: &mut Visitor) {}
    fn label(&self) -> Option<&Label> {
        Some(&self.label)
    }
}
