//! Cross entropy with soft targets.
use super::cuda::cross_entropy::TopKCounts;
use super::{cpu, cuda};
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, apply_all, composed_backward, for_real};
use crate::ops::norm::to_compute_dtype;
use crate::ops::wide;
use crate::{DType, Element, Result, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Mean over the batch of `-sum over classes of t * log softmax(logits)`. Rows of the target need not sum to 1.
    /// Logits and target `[n, classes]`, of one dtype: f32, f16, bf16, or f64 on the CPU. The result is a scalar of that dtype. The target
    /// gets no gradient.
    pub fn soft_target_cross_entropy(&self, target: &Tensor) -> Result<Tensor> {
        self.soft_cross_entropy(target, None)?.0.to_dtype(self.dtype())
    }

    /// [`Tensor::soft_target_cross_entropy`] with a loss in f32 for f16 and bf16 logits, and the top-1 and top-k counts of
    /// [`Tensor::cross_entropy_counted`]. The class of a row is the argmax of its target.
    pub fn soft_target_cross_entropy_counted(&self, target: &Tensor, k: usize) -> Result<(Tensor, Tensor)> {
        let (loss, counts) = self.soft_cross_entropy(target, Some(k))?;
        Ok((loss, counts.expect("k was given")))
    }

    fn soft_cross_entropy(&self, target: &Tensor, k: Option<usize>) -> Result<(Tensor, Option<Tensor>)> {
        let (rows, _) = self.check_dense_target(NAME, target)?;
        let mut results = apply_all(SoftCrossEntropy { rows, k }, &[self, &target.detach()])?;
        let counts = k.and_then(|_| results.pop());
        Ok((results.swap_remove(0), counts))
    }
}

const NAME: &str = "soft_target_cross_entropy";

/// The mean loss; for each row the logarithm of its sum of exponentials and the sum of its target; and the top-1 and top-k counts if there is
/// a `k`.
struct SoftCrossEntropy {
    rows: usize,
    k: Option<usize>,
}

impl Op for SoftCrossEntropy {
    fn spec(&self) -> Spec {
        Spec::new(NAME, &["logits", "target"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let dtype = wide(x[0].dtype());
        let mut results = vec![TensorInfo::new((), dtype)?, TensorInfo::new([2, self.rows], dtype)?];
        if self.k.is_some() {
            results.push(TensorInfo::new([2], DType::I64)?);
        }
        Ok(results)
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let n = self.rows;
        for_real!(call, T => {
            let (x, target) = (call.x::<T>(0)?, call.x::<T>(1)?);
            if let Some(k) = self.k {
                let classes = cpu::soft_cross_entropy::argmax_rows(&target, n);
                call.y::<i64>(2)?.copy_from_slice(&cpu::cross_entropy::top_k_counts(&x, &classes, k));
            }
            // The CPU's backward pass computes the sums of the target again.
            let mut saved = call.y::<T>(1)?;
            let (log_sums, target_sums) = saved.split_at_mut(n);
            target_sums.fill(<T as Element>::from_f64(0.0));
            let loss = cpu::soft_cross_entropy::soft_forward(&x, &target, log_sums);
            call.y::<T>(0)?[0] = <T as Element>::from_f64(loss);
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let counts = self.k.map(|k| TopKCounts { k, counts: y[2] });
        cuda::soft_cross_entropy::soft_forward(gpu, x[0], x[1], y[1], y[0], counts)
    }
}

impl Derivative for SoftCrossEntropy {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0, 1]).and_results(&[1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        let operands = [saved.operand(0), saved.operand(1), saved.result(1), &dy];
        Ok(vec![Some(apply(SoftCrossEntropyGrad, &operands)?), None])
    }
}

/// Gradient of [`SoftCrossEntropy`]: `(softmax(logits) sum(t) - t) / n`.
struct SoftCrossEntropyGrad;

impl Op for SoftCrossEntropyGrad {
    fn spec(&self) -> Spec {
        Spec::new(NAME, &["logits", "target", "saved", "grad"]).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => {
            let (x, target, saved) = (call.x::<T>(0)?, call.x::<T>(1)?, call.x::<T>(2)?);
            let scale = call.x::<T>(3)?[0].to_f64();
            let log_sums = &saved[..saved.len() / 2];
            cpu::soft_cross_entropy::soft_backward(&x, &target, log_sums, scale, &mut call.y::<T>(0)?);
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::soft_cross_entropy::soft_backward(gpu, x[0], x[1], x[2], x[3], y[0])
    }
}

impl Derivative for SoftCrossEntropyGrad {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0, 1, 2, 3])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        composed_backward(saved, &dy, needs, |operands| {
            let [logits, target, _, grad] = operands else { unreachable!("four operands") };
            let (x, t) = (to_compute_dtype(logits)?, to_compute_dtype(target)?);
            let d = x.softmax(1)?.mul(&t.sum(&[1], true)?)?.sub(&t)?.mul_scalar(1.0 / t.dims()[0] as f64)?;
            d.mul(&grad.to_dtype(d.dtype())?)?.to_dtype(logits.dtype())
        })
    }
}
