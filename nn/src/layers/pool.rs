//! Pooling layers.
use crate::{Context, Module, Visitor};
use fornax_engine::{GlobalPool, Pool2d, Result, Tensor};

/// Largest value of each window.
pub struct MaxPool2d(pub Pool2d);
/// Mean of each window; padding does not count.
pub struct AvgPool2d(pub Pool2d);
/// Mean over all pixels: `[n, h, w, c]` to `[n, c]`.
pub struct GlobalAvgPool;

impl Module for MaxPool2d {
    fn forward(&self, x: &Tensor, _: &mut Context) -> Result<Tensor> {
        x.max_pool2d(&self.0)
    }
    fn visit(&self, _: &mut Visitor) {}
}

impl Module for AvgPool2d {
    fn forward(&self, x: &Tensor, _: &mut Context) -> Result<Tensor> {
        x.avg_pool2d(&self.0, false)
    }
    fn visit(&self, _: &mut Visitor) {}
}

impl Module for GlobalAvgPool {
    fn forward(&self, x: &Tensor, _: &mut Context) -> Result<Tensor> {
        x.global_pool(GlobalPool::Avg)
    }
    fn visit(&self, _: &mut Visitor) {}
}
