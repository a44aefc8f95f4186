//! Stochastic regularisation: dropout, stochastic depth (drop path) and DropBlock. The caller provides the randomness.
use super::gpu::OnGpu;
use crate::random::RngStream;
use crate::{DType, Error, Pool2dOptions, Result, Tensor, cpu, cuda};

impl Tensor {
    /// Dropout (Srivastava et al., 2014): each element is 0 with probability `drop_prob`, else multiplied by `1 / (1 - drop_prob)`.
    /// f32, f16, bf16; f64 on the CPU. Element `i` uses random number `i` of the stream, on every device; the backward pass generates it
    /// again. `step`, an i64 scalar that must not change before the backward pass, is added to the stream's sample on the device, so
    /// that every replay of a CUDA graph has other random numbers.
    pub fn dropout(&self, drop_prob: f64, stream: &RngStream, step: Option<&Tensor>) -> Result<Tensor> {
        let mut operands = vec![("x", self)];
        operands.extend(step.map(|step| ("step", step)));
        check_probability("dropout", &operands, drop_prob)?;
        if step.is_some_and(|step| step.dtype() != DType::I64 || step.numel() != 1) {
            return Err(Error::dtype("dropout", &operands, "a step of dtype i64 with one element"));
        }
        let y = self.dropout_forward(&operands, drop_prob, stream, step)?;
        Ok(y.with_composed_backward("dropout", &[self], || {
            let (stream, step) = (stream.clone(), step.cloned());
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.dropout(drop_prob, &stream, step.as_ref())?)])
        }))
    }

    fn dropout_forward(
        &self,
        operands: &[(&'static str, &Tensor)],
        drop_prob: f64,
        stream: &RngStream,
        step: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (keep_prob, factor) = (1.0 - drop_prob, scale_of_kept(drop_prob));
        if let Some(on) = OnGpu::of("dropout", operands)? {
            let step = step.map(Tensor::device_view);
            let step = step.as_ref().map(|step| step.slice());
            return on.build(*self.shape(), self.dtype(), |y| {
                cuda::dropout::forward(
                    &on.gpu,
                    self.device_view().slice(),
                    stream,
                    step,
                    keep_prob,
                    factor,
                    y,
                )
            });
        }
        let stream = &match step {
            Some(step) => stream.skip_samples(step.read::<i64>()?[0] as u64),
            None => stream.clone(),
        };
        if self.is_half_on_cpu() {
            return self.detach().widened()?.dropout(drop_prob, stream, None)?.rounded_as(self);
        }
        dispatch_real!("dropout", [("x", self)], T => {
            let (x, factor) = (self.read::<T>()?, <T as crate::Element>::from_f64(factor));
            Tensor::build(*self.shape(), |y: &mut [T]| cpu::dropout::forward(&x, stream, keep_prob, factor, y))
        })
    }

    /// Stochastic depth (Huang et al., 2016): sample `i` of the batch is multiplied by `keep[i]` (1 or 0), and by
    /// `1 / (1 - drop_prob)` with `scale_by_keep`. x `[n, …]`, keep `[n]`, of one dtype: f32, f16, bf16, or f64 on the CPU.
    pub fn drop_path(&self, keep: &Tensor, drop_prob: f64, scale_by_keep: bool) -> Result<Tensor> {
        let operands = [("x", self), ("keep", keep)];
        if self.rank() == 0 || keep.dims() != &self.dims()[..1] {
            return Err(Error::shape("drop_path", &operands, "keep must be [n], one number per sample"));
        }
        check_probability("drop_path", &operands, drop_prob)?;
        let factor = if scale_by_keep { scale_of_kept(drop_prob) } else { 1.0 };
        let mut shape = vec![1; self.rank()];
        shape[0] = keep.numel();
        self.mul(&keep.detach().mul_scalar(factor)?.reshape(shape)?)
    }

    /// DropBlock (Ghiasi et al., 2018): around each seed (1 in `seeds`, else 0) a square of `block_size` pixels is set to 0; with
    /// `scale_by_keep` the other elements are multiplied by `elements / kept elements`. x `[n, h, w, c]`, seeds `[n, h, w, 1]` for one mask
    /// over all channels or `[n, h, w, c]`. Blocks are clipped to the map; a block of even size reaches one pixel further up and left,
    /// as in timm. x and seeds have one dtype: f32, f16, bf16, or f64 on the CPU.
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
                "seeds must be [n, h, w, 1] or [n, h, w, c], and block_size at least 1",
            ));
        }
        let kernel = [block_size.min(h), block_size.min(w)];
        let pool = Pool2dOptions {
            kernel,
            stride: [1, 1],
            padding: [kernel[0] / 2, kernel[1] / 2],
            ..Pool2dOptions::default()
        };
        let dropped = seeds.detach().max_pool2d(&pool)?;
        let even = |k: usize| usize::from(k.is_multiple_of(2));
        let dropped = dropped.narrow(1, even(kernel[0]), h)?.narrow(2, even(kernel[1]), w)?;
        let keep = dropped.affine(-1.0, 1.0)?;
        if !scale_by_keep {
            return self.mul(&keep);
        }
        // f16 and bf16 cannot represent the count.
        let wide = if keep.dtype().size() == 2 { keep.to_dtype(DType::F32)? } else { keep.clone() };
        // On the device: a captured CUDA graph cannot read the count back.
        let all = Tensor::full((), keep.numel() as f64, wide.dtype(), &wide.device())?;
        let factor = all.div(&wide.sum_all()?.affine(1.0, 1e-7)?)?;
        self.mul(&wide.mul(&factor)?.to_dtype(self.dtype())?)
    }
}

fn check_probability(op: &'static str, operands: &[(&'static str, &Tensor)], drop_prob: f64) -> Result<()> {
    if (0.0..=1.0).contains(&drop_prob) {
        return Ok(());
    }
    Err(Error::value(op, operands, format!("drop_prob {drop_prob} is not in [0, 1]")))
}

/// Factor of the elements that are kept, 1 where none is.
fn scale_of_kept(drop_prob: f64) -> f64 {
    if drop_prob < 1.0 { 1.0 / (1.0 - drop_prob) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::RngKey;

    #[test]
    fn dropout_keeps_the_mean_and_masks_the_gradient_alike() {
        let stream = RngStream::new(RngKey::new(1, "dropout"), 3, 4);
        let x = Tensor::ones([100_000], DType::F32, &crate::Device::Cpu).expect("memory").variable();
        let y = x.dropout(0.25, &stream, None).expect("floats");
        let values = y.to_vec::<f32>().expect("f32");
        assert!(values.iter().all(|v| *v == 0.0 || (*v - 4.0 / 3.0).abs() < 1e-6));
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        y.backward_from(&x.detach()).expect("a gradient");
        assert_eq!(x.grad().expect("a gradient").to_vec::<f32>().expect("f32"), values);
        // A shorter tensor uses the first of the same random numbers.
        let first = x.narrow(0, 0, 10).and_then(|x| x.dropout(0.25, &stream, None)).expect("floats");
        assert_eq!(first.to_vec::<f32>().expect("f32"), values[..10]);
        let all = first.dropout(1.0, &stream, None).expect("a probability");
        assert_eq!(all.to_vec::<f32>().expect("f32"), [0.0; 10]);
        assert!(matches!(x.dropout(1.5, &stream, None), Err(Error::Value { .. })));
    }
}
