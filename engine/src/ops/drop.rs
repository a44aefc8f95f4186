//! Stochastic regularisers, with the random draw given by the caller.
use crate::{Error, Pool2d, Result, Tensor};

impl Tensor {
    /// Stochastic depth (Huang et al., 2016): sample `i` of the batch is multiplied by `keep[i]` (1 or 0), and by
    /// `1 / (1 - drop_prob)` when `scale_by_keep`. x `[n, …]`, keep `[n]`; f32, f64.
    pub fn drop_path(&self, keep: &Tensor, drop_prob: f64, scale_by_keep: bool) -> Result<Tensor> {
        let operands = [("x", self), ("keep", keep)];
        if self.rank() == 0 || keep.dims() != &self.dims()[..1] {
            return Err(Error::shape("drop_path", &operands, "keep must have one number a sample"));
        }
        if !(0.0..1.0).contains(&drop_prob) {
            return Err(Error::value(
                "drop_path",
                &operands,
                format!("drop_prob {drop_prob} is not in 0..1"),
            ));
        }
        let factor = if scale_by_keep { 1.0 / (1.0 - drop_prob) } else { 1.0 };
        let mut shape = vec![1; self.rank()];
        shape[0] = keep.numel();
        self.mul(&keep.detach().scale(factor)?.reshape(shape)?)
    }

    /// DropBlock (Ghiasi et al., 2018): around each seed (1 in `seeds`, else 0) a square of `block_size` pixels is dropped, and
    /// what is left is multiplied by `elements / kept` when `scale_by_keep`. x `[n, h, w, c]`, seeds `[n, h, w, 1]` for one
    /// mask over all channels or `[n, h, w, c]`. Blocks are clipped to the map; an even block reaches one pixel
    /// further up and left, as in timm. f32, f64.
    pub fn drop_block(&self, seeds: &Tensor, block_size: usize, scale_by_keep: bool) -> Result<Tensor> {
        let operands = [("x", self), ("seeds", seeds)];
        let &[_, h, w, c] = self.dims() else {
            return Err(Error::shape("drop_block", &operands, "x must be [n, h, w, c]"));
        };
        let fits = *seeds.shape() == self.shape().with(3, 1) || *seeds.shape() == self.shape().with(3, c);
        if !fits || block_size == 0 {
            return Err(Error::shape(
                "drop_block",
                &operands,
                "seeds must be [n, h, w, 1] or [n, h, w, c], and a block at least one pixel",
            ));
        }
        let kernel = [block_size.min(h), block_size.min(w)];
        let pool =
            Pool2d { kernel, stride: [1, 1], padding: [kernel[0] / 2, kernel[1] / 2], ..Pool2d::default() };
        let dropped = seeds.detach().max_pool2d(&pool)?;
        let even = |k: usize| usize::from(k.is_multiple_of(2));
        let dropped = dropped.narrow(1, even(kernel[0]), h)?.narrow(2, even(kernel[1]), w)?;
        let keep = dropped.affine(-1.0, 1.0)?;
        if !scale_by_keep {
            return self.mul(&keep);
        }
        let kept = keep.sum_all()?.item()?;
        self.mul(&keep.scale(keep.numel() as f64 / (kept + 1e-7))?)
    }
}
