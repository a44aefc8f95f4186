//! Dropout, stochastic depth and DropBlock, active only in training.
use crate::capture::LayerInfo;
use crate::{Context, Module, Visitor};
use fornax_engine::{DType, Result, Tensor};

/// Dropout (Srivastava et al., 2014): zeroes each element with probability `p`, and scales the others by `1 / (1 - p)`.
pub struct Dropout(pub f64);

impl Module for Dropout {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        if !cx.training() || self.0 == 0.0 {
            return Ok(x.clone());
        }
        x.dropout(self.0, &cx.next_rng()?)
    }

    fn visit(&self, _: &mut Visitor) {}
}

/// Stochastic depth (Huang et al., 2016): zeroes all elements of a sample with probability `drop_prob`, which skips the residual block,
/// and scales the other samples by `1 / (1 - drop_prob)`. timm's `DropPath`.
pub struct DropPath {
    drop_prob: f64,
    info: LayerInfo,
}

impl DropPath {
    /// Stochastic depth with probability `drop_prob`.
    pub const fn new(drop_prob: f64) -> DropPath {
        DropPath { drop_prob, info: LayerInfo::new("DropPath") }
    }

    /// True if the layer drops samples in this pass.
    pub fn is_active(&self, cx: &Context) -> bool {
        cx.training() && self.drop_prob > 0.0
    }
}

impl Module for DropPath {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        if !self.is_active(cx) {
            return Ok(x.clone());
        }
        let mask = Tensor::ones([x.dims()[0]], DType::F32, &x.device())?;
        let mask = mask.dropout(self.drop_prob, &cx.next_rng()?)?.to_dtype(x.dtype())?;
        let y = x.drop_path(&mask, self.drop_prob, false)?;
        Ok(cx.capture(&self.info, y, 0))
    }

    fn visit(&self, _: &mut Visitor) {}

    fn layer_info(&self) -> Option<&LayerInfo> {
        Some(&self.info)
    }
}

/// DropBlock (Ghiasi et al., 2018), as timm's `DropBlock2d`: drops squares of `block_size` pixels from all channels, such that a fraction
/// of about `drop_prob * gamma_scale` of the feature map is dropped. The other elements are scaled by the fraction that is kept in this
/// rank's batch, or with synchronised batch norm in the batches of all ranks.
pub struct DropBlock {
    /// Fraction of the feature map to drop.
    pub drop_prob: f64,
    /// Side of a square, in pixels.
    pub block_size: usize,
    /// Factor of the probability of a square.
    pub gamma_scale: f64,
}

impl DropBlock {
    /// Probability of a pixel to be the centre of a dropped square, for a feature map of `size`: timm's gamma.
    fn seeds(&self, size: [usize; 2]) -> f64 {
        let axis = |n: usize| {
            let side = self.block_size.min(n);
            n as f64 / (side * (n - side + 1)) as f64
        };
        (self.gamma_scale * self.drop_prob * axis(size[0]) * axis(size[1])).min(1.0)
    }
}

impl Module for DropBlock {
    fn forward(&self, x: &Tensor, cx: &mut Context) -> Result<Tensor> {
        let &[n, h, w, _] = x.dims() else { return Ok(x.clone()) };
        if !cx.training() || self.drop_prob == 0.0 {
            return Ok(x.clone());
        }
        let ones = Tensor::ones([n, h, w, 1], DType::F32, &x.device())?;
        // Dropout scales ones to at least 1.
        let seeds = ones.dropout(1.0 - self.seeds([h, w]), &cx.next_rng()?)?.clamp(0.0, 1.0)?;
        let seeds = seeds.to_dtype(x.dtype())?;
        match cx.sync_group() {
            Some(group) => x.sync_drop_block(&seeds, self.block_size, group),
            None => x.drop_block(&seeds, self.block_size, true),
        }
    }

    fn visit(&self, _: &mut Visitor) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use fornax_engine::Device;

    fn training() -> Context {
        let step = Tensor::scalar(3i64).expect("memory");
        Context::train().with_seed(7, &step)
    }

    #[test]
    fn random_layer_without_a_seed_is_an_error_of_the_forward_pass() {
        let x = Tensor::ones([2, 3], DType::F32, &Device::Cpu).expect("memory");
        let error = DropPath::new(0.5).forward(&x, &mut Context::train()).expect_err("no seed");
        assert!(matches!(error, fornax_engine::Error::Value { .. }), "{error}");
        assert!(error.to_string().contains("Context::with_seed"), "{error}");
    }

    #[test]
    fn drop_path_drops_whole_samples() {
        let x = Tensor::ones([512, 2, 1, 3], DType::F32, &Device::Cpu).expect("memory");
        let layer = DropPath::new(0.25);
        let y = layer.forward(&x, &mut training()).expect("drops").to_vec::<f32>().expect("f32");
        let kept = y.chunks(6).filter(|sample| sample[0] != 0.0).count();
        for sample in y.chunks(6) {
            assert!(sample.iter().all(|v| *v == sample[0]), "{sample:?}");
            assert!(sample[0] == 0.0 || (sample[0] - 4.0 / 3.0).abs() < 1e-6);
        }
        assert!((kept as f64 / 512.0 - 0.75).abs() < 0.08, "{kept} of 512 kept");
        let eval = layer.forward(&x, &mut Context::eval()).expect("passes").to_vec::<f32>().expect("f32");
        assert!(eval.iter().all(|v| *v == 1.0));
    }

    #[test]
    fn drop_block_drops_expected_fraction_of_the_map() {
        let x = Tensor::ones([64, 14, 14, 2], DType::F32, &Device::Cpu).expect("memory");
        let layer = DropBlock { drop_prob: 0.1, block_size: 3, gamma_scale: 1.0 };
        let y = layer.forward(&x, &mut training()).expect("drops").to_vec::<f32>().expect("f32");
        assert!(y.chunks(2).all(|pixel| pixel[0] == pixel[1]), "channels share the mask");
        let dropped = y.iter().filter(|v| **v == 0.0).count() as f64 / y.len() as f64;
        // Squares overlap, and are clipped at the edges.
        assert!((0.08..0.14).contains(&dropped), "{dropped}");
        let mean = y.iter().sum::<f32>() / y.len() as f32;
        assert!((mean - 1.0).abs() < 1e-3, "{mean}");
        assert!((layer.seeds([14, 14]) - 0.1 * 196.0 / (9.0 * 144.0)).abs() < 1e-12);
    }
}
