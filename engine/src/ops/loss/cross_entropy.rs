//! Softmax cross entropy against class indices.
use super::cuda::cross_entropy::TopKCounts;
use super::{cpu, cuda};
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{
    CpuCall, Infos, Mismatch, Op, Spec, TensorInfo, apply, apply_all, composed_backward, for_real,
};
use crate::ops::norm::to_compute_dtype;
use crate::ops::wide;
use crate::{DType, Device, Element, Error, Result, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Mean over the batch of the cross entropy of `softmax(logits)` against class indices, with label smoothing `s`:
    /// `(1 - s) * nll + s * mean over classes of -log p` (Szegedy et al., 2016). Logits `[n, classes]` of f32, f16, bf16, or f64 on the CPU;
    /// target `[n]` i64. The result is a scalar of the logits' dtype, in nats. A class outside of `0..classes` is an error on the CPU; on a
    /// GPU, where the target is not read back, it makes the loss NaN.
    pub fn cross_entropy(&self, target: &Tensor, smoothing: f64) -> Result<Tensor> {
        self.indexed_cross_entropy(target, smoothing, None)?.0.to_dtype(self.dtype())
    }

    /// [`Tensor::cross_entropy`] with a loss in f32 for f16 and bf16 logits, and the numbers of rows that are top-1 and top-k correct, `[2]`
    /// i64. Of equal logits, the one of the lower class ranks higher.
    pub fn cross_entropy_counted(
        &self,
        target: &Tensor,
        smoothing: f64,
        k: usize,
    ) -> Result<(Tensor, Tensor)> {
        let (loss, counts) = self.indexed_cross_entropy(target, smoothing, Some(k))?;
        Ok((loss, counts.expect("k was given")))
    }

    fn indexed_cross_entropy(
        &self,
        target: &Tensor,
        smoothing: f64,
        k: Option<usize>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let operands = [("logits", self), ("target", target)];
        let value_error = |why: String| Err(Error::value("cross_entropy", &operands, why));
        if !(0.0..1.0).contains(&smoothing) {
            return value_error(format!("smoothing {smoothing} is not in 0..1"));
        }
        if target.device() == Device::Cpu
            && target.dtype() == DType::I64
            && let &[_, classes] = self.dims()
            && let Some(bad) = target.read::<i64>()?.iter().find(|t| !(0..classes as i64).contains(*t))
        {
            return value_error(format!("class {bad} is not in 0..{classes}"));
        }
        let mut results = apply_all(CrossEntropy { smoothing, k }, &[self, target])?;
        let counts = k.and_then(|_| results.pop());
        Ok((results.swap_remove(0), counts))
    }
}

/// The mean loss, the logarithm of each row's sum of exponentials, and the top-1 and top-k counts if there is a `k`.
struct CrossEntropy {
    smoothing: f64,
    k: Option<usize>,
}

impl Op for CrossEntropy {
    fn spec(&self) -> Spec {
        Spec::new("cross_entropy", &["logits", "target"]).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let &[n, classes] = x[0].dims() else { return Err("logits must be [n, classes]".into()) };
        if x[1].dims() != [n] || n == 0 || classes == 0 {
            return Err("needs at least one row and one class, and a target of [n]".into());
        }
        if x[1].dtype() != DType::I64 {
            return Err(Mismatch::DType("class indices of i64"));
        }
        let dtype = wide(x[0].dtype());
        let mut results = vec![TensorInfo::new((), dtype)?, TensorInfo::new([n], dtype)?];
        if self.k.is_some() {
            results.push(TensorInfo::new([2], DType::I64)?);
        }
        Ok(results)
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => {
            let (x, target) = (call.x::<T>(0)?, call.x::<i64>(1)?);
            if let Some(k) = self.k {
                call.y::<i64>(2)?.copy_from_slice(&cpu::cross_entropy::top_k_counts(&x, &target, k));
            }
            let loss = cpu::cross_entropy::forward(&x, &target, self.smoothing, &mut call.y::<T>(1)?);
            call.y::<T>(0)?[0] = <T as Element>::from_f64(loss);
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let counts = self.k.map(|k| TopKCounts { k, counts: y[2] });
        cuda::cross_entropy::forward(gpu, x[0], x[1], self.smoothing, y[1], y[0], counts)
    }
}

impl Derivative for CrossEntropy {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0, 1]).and_results(&[1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        let operands = [saved.operand(0), saved.operand(1), saved.result(1), &dy];
        Ok(vec![Some(apply(CrossEntropyGrad { smoothing: self.smoothing }, &operands)?), None])
    }
}

/// Gradient of [`CrossEntropy`]: `(softmax(logits) - q) / n`, where q is `1 - s + s / classes` at the target, else `s / classes`.
struct CrossEntropyGrad {
    smoothing: f64,
}

impl Op for CrossEntropyGrad {
    fn spec(&self) -> Spec {
        Spec::new("cross_entropy", &["logits", "target", "log_sums", "grad"]).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => {
            let (x, target, log_sums) = (call.x::<T>(0)?, call.x::<i64>(1)?, call.x::<T>(2)?);
            let scale = call.x::<T>(3)?[0].to_f64();
            cpu::cross_entropy::backward(&x, &target, self.smoothing, &log_sums, scale, &mut call.y::<T>(0)?);
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::cross_entropy::backward(gpu, x[0], x[1], self.smoothing, x[2], x[3], y[0])
    }
}

impl Derivative for CrossEntropyGrad {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0, 1, 2, 3])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        composed_backward(saved, &dy, needs, |operands| {
            let [logits, target, _, grad] = operands else { unreachable!("four operands") };
            let (n, classes) = (logits.dims()[0], logits.dims()[1]);
            let off = self.smoothing / classes as f64;
            let wide = to_compute_dtype(logits)?;
            let q = target.one_hot(classes, 1.0 - self.smoothing + off, off, wide.dtype())?;
            let d = wide.softmax(1)?.sub(&q)?.mul_scalar(1.0 / n as f64)?;
            d.mul(&grad.to_dtype(d.dtype())?)?.to_dtype(logits.dtype())
        })
    }
}
