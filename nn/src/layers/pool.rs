//! Pooling layers.
use crate::capture::LayerInfo;
use crate::{Context, Module, Visitor};
use fornax_engine::{GlobalPool, Pool2dOptions, Result, Tensor};

/// 2-D max pooling.
pub struct MaxPool2d {
    pool: Pool2dOptions,
    info: LayerInfo,
}

impl MaxPool2d {
    /// Layer with the given kernel, stride and padding.
    pub const fn new(pool: Pool2dOptions) -> MaxPool2d {
        MaxPool2d { pool, info: LayerInfo::new("MaxPool2d") }
    }

    pub(super) fn options(&self) -> &Pool2dOptions {
        &self.pool
    }

    /// Passes on the output `y` of an operation with the pooling fused into it.
    pub(super) fn capture_fused(&self, y: Tensor, cx: &mut Context) -> Tensor {
        cx.capture(&self.info, y, 0)
    }
}

impl Module for MaxPool2d {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let y = x.max_pool2d(&self.pool)?;
        Ok(self.capture_fused(y, cx))
    }
    fn visit(&self, _: &mut Visitor) {}
    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}

/// 2-D average pooling with `count_include_pad=False`.
pub struct AvgPool2d {
    pool: Pool2dOptions,
    same: bool,
    info: LayerInfo,
}

impl AvgPool2d {
    /// Layer with the given kernel, stride and padding.
    pub const fn new(pool: Pool2dOptions) -> AvgPool2d {
        AvgPool2d { pool, same: false, info: LayerInfo::new("AvgPool2d") }
    }

    /// 2×2 average pooling at stride 1 with "same" padding: a row and a column of zeros at the end, included in the average. timm's
    /// `AvgPool2dSame`.
    pub fn same() -> AvgPool2d {
        let pool = Pool2dOptions { kernel: [2, 2], stride: [1, 1], ..Pool2dOptions::default() };
        AvgPool2d { pool, same: true, info: LayerInfo::new("AvgPool2d") }
    }
}

impl Module for AvgPool2d {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let padded = match self.same {
            true => &x.pad(&[(0, 0), (0, 1), (0, 1), (0, 0)], 0.0)?,
            false => x,
        };
        let y = padded.avg_pool2d(&self.pool, false)?;
        Ok(cx.capture(&self.info, y, 0))
    }
    fn visit(&self, _: &mut Visitor) {}
    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}

/// Global pooling from `[n, h, w, c]` to `[n, c]`, or `[n, 2c]` for [`GlobalPool::CatAvgMax`]; or no pooling. timm's
/// `SelectAdaptivePool2d`.
pub struct SelectAdaptivePool2d {
    /// Type of pooling; `None` for no pooling.
    pub kind: Option<GlobalPool>,
    info: LayerInfo,
}

impl SelectAdaptivePool2d {
    /// Layer with this type of pooling.
    pub const fn new(kind: Option<GlobalPool>) -> SelectAdaptivePool2d {
        SelectAdaptivePool2d { kind, info: LayerInfo::new("GlobalPool") }
    }

    /// Output channels per input channel: timm's `feat_mult`.
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
        Ok(cx.capture(&self.info, y, 0))
    }
    fn visit(&self, _: &mut Visitor) {}
    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}
