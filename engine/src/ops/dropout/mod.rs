//! Stochastic regularisation: dropout, stochastic depth (drop path) and DropBlock. The caller provides the randomness.
pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_real};
use crate::random::RngStream;
use crate::{Collective, DType, Element, Error, Pool2dOptions, Reduction, Result, Tensor};
use std::sync::Arc;

/// Random numbers of a mask of dropout: number `i` of a stream for element `i`. The tensors are read on the device: every replay of
/// a CUDA graph has other random numbers; they must not change before the backward pass.
#[derive(Clone, Debug)]
pub struct MaskRng {
    /// The stream.
    pub stream: RngStream,
    /// Number that is added to the stream's sample, an i64 scalar.
    pub step: Option<Tensor>,
    /// For a part of a larger batch, the row of each of its rows there, i64 `[n]`: the mask is these rows of the larger batch's mask.
    pub rows: Option<Tensor>,
}

impl MaskRng {
    /// The random numbers of a stream.
    pub fn new(stream: RngStream) -> MaskRng {
        MaskRng { stream, step: None, rows: None }
    }
}

impl Tensor {
    /// Dropout (Srivastava et al., 2014): each element is 0 with probability `drop_prob`, else multiplied by `1 / (1 - drop_prob)`.
    /// f32, f16, bf16; f64 on the CPU. The random numbers are the same on every device; the backward pass generates them again.
    pub fn dropout(&self, drop_prob: f64, rng: &MaskRng) -> Result<Tensor> {
        let mut operands = vec![("x", self)];
        operands.extend(rng.step.as_ref().map(|step| ("step", step)));
        operands.extend(rng.rows.as_ref().map(|rows| ("rows", rows)));
        check_probability("dropout", &operands, drop_prob)?;
        if rng.step.as_ref().is_some_and(|step| step.dtype() != DType::I64 || step.numel() != 1) {
            return Err(Error::dtype("dropout", &operands, "a step of dtype i64 with one element"));
        }
        if let Some(rows) = &rng.rows {
            if rows.dtype() != DType::I64 {
                return Err(Error::dtype("dropout", &operands, "rows of dtype i64"));
            }
            if !self.numel().is_multiple_of(rows.numel()) {
                return Err(Error::shape(
                    "dropout",
                    &operands,
                    "x must have the same number of elements per row",
                ));
            }
        }
        let operands: Vec<&Tensor> = operands.iter().map(|(_, t)| *t).collect();
        apply(Dropout { drop_prob, stream: rng.stream.clone(), has_step: rng.step.is_some() }, &operands)
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
        let keep = self.drop_block_mask(seeds, block_size)?;
        if scale_by_keep { self.scaled_mask_product(&keep, None) } else { self.mul(&keep) }
    }

    /// [`Tensor::drop_block`] with `scale_by_keep`, counting the elements of the batches of all ranks.
    pub fn sync_drop_block(
        &self,
        seeds: &Tensor,
        block_size: usize,
        group: &Arc<dyn Collective>,
    ) -> Result<Tensor> {
        self.scaled_mask_product(&self.drop_block_mask(seeds, block_size)?, Some(group))
    }

    /// Mask of DropBlock: 0 in the squares around the seeds, else 1.
    fn drop_block_mask(&self, seeds: &Tensor, block_size: usize) -> Result<Tensor> {
        let operands = [("x", self), ("seeds", seeds)];
        let &[_, h, w, c] = self.dims() else {
            return Err(Error::shape("drop_block", &operands, "x must be [n, h, w, c]"));
        };
        let fits = *seeds.shape() == self.shape().reduced(3) || *seeds.shape() == self.shape().with(3, c)?;
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
        dropped.affine(-1.0, 1.0)
    }

    /// `self * keep * elements / kept elements`, counted over all ranks of a group.
    fn scaled_mask_product(&self, keep: &Tensor, group: Option<&Arc<dyn Collective>>) -> Result<Tensor> {
        // f16 and bf16 cannot represent the count.
        let wide = if keep.dtype().size() == 2 { keep.to_dtype(DType::F32)? } else { keep.clone() };
        // On the device: a captured CUDA graph cannot read the count back.
        let all = Tensor::full((), keep.numel() as f64, wide.dtype(), &wide.device())?;
        let kept = wide.sum_all()?;
        if let Some(group) = group {
            group.all_reduce(&all, Reduction::Sum)?;
            group.all_reduce(&kept, Reduction::Sum)?;
        }
        let factor = all.div(&kept.affine(1.0, 1e-7)?)?;
        self.mul(&wide.mul(&factor)?.to_dtype(self.dtype())?)
    }
}

/// Elements times `1 / (1 - drop_prob)`, or 0. Operands: x, and the step and the rows of the random numbers if there are any.
#[derive(Clone)]
struct Dropout {
    drop_prob: f64,
    stream: RngStream,
    has_step: bool,
}

impl Dropout {
    /// The step and the rows among the operands.
    fn rng<T: Copy>(&self, operands: &[T]) -> [Option<T>; 2] {
        let rows = 1 + usize::from(self.has_step);
        [self.has_step.then(|| operands[1]), operands.get(rows).copied()]
    }
}

impl Op for Dropout {
    fn spec(&self) -> Spec {
        let operands: &[&str] = if self.has_step { &["x", "step", "rows"] } else { &["x", "rows"] };
        Spec::new("dropout", operands).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let [step, rows] = self.rng(&(0..call.operands()).collect::<Vec<_>>());
        let step = step.map(|i| call.x::<i64>(i)).transpose()?;
        let stream = step.map_or(self.stream.clone(), |step| self.stream.skip_samples(step[0] as u64));
        let rows = rows.map(|i| call.x::<i64>(i)).transpose()?;
        let (keep_prob, factor) = (1.0 - self.drop_prob, scale_of_kept(self.drop_prob));
        for_real!(call, T => {
            let factor = <T as Element>::from_f64(factor);
            cpu::forward::<T>(&call.x(0)?, &stream, rows.as_deref(), keep_prob, factor, &mut call.y(0)?);
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let [step, rows] = self.rng(x);
        let (keep_prob, factor) = (1.0 - self.drop_prob, scale_of_kept(self.drop_prob));
        cuda::forward(gpu, x[0], &self.stream, step, rows, keep_prob, factor, y[0])
    }
}

impl Derivative for Dropout {
    fn saves(&self, needs: &[bool]) -> Saves {
        Saves::operands(&(1..needs.len()).collect::<Vec<_>>())
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        let operands: Vec<&Tensor> =
            [&dy].into_iter().chain((1..needs.len()).map(|i| saved.operand(i))).collect();
        let mut grads = vec![None; needs.len()];
        grads[0] = Some(apply(self.clone(), &operands)?);
        Ok(grads)
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
        let rng = MaskRng::new(RngStream::new(RngKey::new(1, "dropout"), 3, 4));
        let x = Tensor::ones([100_000], DType::F32, &crate::Device::Cpu).expect("memory").variable();
        let y = x.dropout(0.25, &rng).expect("floats");
        let values = y.to_vec::<f32>().expect("f32");
        assert!(values.iter().all(|v| *v == 0.0 || (*v - 4.0 / 3.0).abs() < 1e-6));
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        y.backward_from(&x.detach()).expect("a gradient");
        assert_eq!(x.grad().expect("a gradient").to_vec::<f32>().expect("f32"), values);
        // A shorter tensor uses the first of the same random numbers.
        let first = x.narrow(0, 0, 10).and_then(|x| x.dropout(0.25, &rng)).expect("floats");
        assert_eq!(first.to_vec::<f32>().expect("f32"), values[..10]);
        let all = first.dropout(1.0, &rng).expect("a probability");
        assert_eq!(all.to_vec::<f32>().expect("f32"), [0.0; 10]);
        assert!(matches!(x.dropout(1.5, &rng), Err(Error::Value { .. })));
    }

    #[test]
    fn mask_of_a_part_is_the_rows_of_the_whole_mask() {
        let values = |t: &Tensor| t.to_dtype(DType::F64)?.to_vec::<f64>();
        let step = Some(Tensor::scalar(3i64).expect("memory"));
        let whole = MaskRng { step, ..MaskRng::new(RngStream::new(RngKey::new(1, "dropout"), 3, 4)) };
        for dtype in [DType::F32, DType::BF16, DType::F64] {
            for columns in [1, 3, 8, 49, 9000] {
                let x = Tensor::ones([8, columns], dtype, &crate::Device::Cpu).expect("memory").variable();
                let all = x.dropout(0.25, &whole).and_then(|y| values(&y)).expect("floats");
                let rows = [1i64, 2, 6, 5];
                let part =
                    MaskRng { rows: Some(Tensor::from_slice(&rows, [4]).expect("memory")), ..whole.clone() };
                let own = x.narrow(0, 0, 4).expect("rows");
                let y = own.dropout(0.25, &part).expect("floats");
                let expected: Vec<f64> =
                    rows.iter().flat_map(|row| all[*row as usize * columns..][..columns].to_vec()).collect();
                assert_eq!(values(&y).expect("floats"), expected, "{dtype}, {columns} columns");
                y.backward_from(&own.detach()).expect("a gradient");
                let grad = x.grad().expect("a gradient").narrow(0, 0, 4).expect("rows");
                assert_eq!(values(&grad).expect("floats"), expected, "gradient, {dtype}");
            }
        }
        let x = Tensor::ones([3, 2], DType::F32, &crate::Device::Cpu).expect("memory");
        let of = |rows: Tensor| x.dropout(0.5, &MaskRng { rows: Some(rows), ..whole.clone() });
        assert!(matches!(of(Tensor::from_slice(&[0i64; 4], [4]).expect("memory")), Err(Error::Shape { .. })));
        assert!(matches!(of(Tensor::from_slice(&[0f32; 3], [3]).expect("memory")), Err(Error::DType { .. })));
    }
}
