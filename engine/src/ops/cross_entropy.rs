//! Softmax cross entropy, fused: probabilities are not materialised.
use super::gpu::OnGpu;
use super::normalised::to_compute_dtype;
use crate::cuda::cross_entropy::TopKCounts;
use crate::{DType, Error, Result, Tensor, cpu, cuda};

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
        let &[n, classes] = self.dims() else {
            return Err(Error::shape("cross_entropy", &operands, "logits must be [n, classes]"));
        };
        if target.dims() != [n] || n == 0 || classes == 0 {
            return Err(Error::shape(
                "cross_entropy",
                &operands,
                "needs at least one row and one class, and a target of [n]",
            ));
        }
        if target.dtype() != DType::I64 {
            return Err(Error::dtype("cross_entropy", &operands, "class indices of i64"));
        }
        if !(0.0..1.0).contains(&smoothing) {
            return Err(Error::value(
                "cross_entropy",
                &operands,
                format!("smoothing {smoothing} is not in 0..1"),
            ));
        }
        if let Some(on) = OnGpu::of("cross_entropy", &operands)? {
            return self.cross_entropy_gpu(&on, target, smoothing, k);
        }
        if let Some(bad) = target.read::<i64>()?.iter().find(|t| !(0..classes as i64).contains(*t)) {
            return Err(Error::value(
                "cross_entropy",
                &operands,
                format!("class {bad} is not in 0..{classes}"),
            ));
        }
        if self.is_half_on_cpu() {
            return self.widened()?.indexed_cross_entropy(target, smoothing, k);
        }
        dispatch_real!("cross_entropy", [("logits", self), ("target", target)], T => {
            let mut log_sums = vec![T::default(); n];
            let (x, t) = (self.read::<T>()?, target.read::<i64>()?);
            let counts = k.map(|k| Tensor::from_slice(&cpu::cross_entropy::top_k_counts(&x, &t, k), [2])).transpose()?;
            let loss = cpu::cross_entropy::forward(&x, &t, smoothing, &mut log_sums);
            let loss = Tensor::scalar(<T as crate::Element>::from_f64(loss))?;
            let kernels = || {
                let (logits, target) = (self.detach(), target.detach());
                move |grad: Tensor, _: &[bool]| {
                    let scale = grad.item()?;
                    let (x, t) = (logits.read::<T>()?, target.read::<i64>()?);
                    let dx = Tensor::build(*logits.shape(), |dx: &mut [T]| {
                        cpu::cross_entropy::backward(&x, &t, smoothing, &log_sums, scale, dx)
                    })?;
                    Ok(vec![Some(dx)])
                }
            };
            let composition = || composition(self, target, smoothing);
            let loss = loss.with_fused_backward("cross_entropy", &[self], kernels, composition);
            Ok((loss.with_saved(&[target]), counts))
        })
    }

    fn cross_entropy_gpu(
        &self,
        on: &OnGpu,
        target: &Tensor,
        smoothing: f64,
        k: Option<usize>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let log_sums = on.empty(*target.shape(), DType::F32)?;
        let counts = k.map(|_| on.empty([2], DType::I64)).transpose()?;
        let loss = on.build((), DType::F32, |loss| {
            let (x, target, log_sums) = (self.device_view(), target.device_view(), log_sums.device_view());
            let (x, target, log_sums) = (x.slice(), target.slice(), log_sums.slice());
            let to = counts.as_ref().map(Tensor::device_view);
            let counts = k.zip(to.as_ref()).map(|(k, to)| TopKCounts { k, counts: to.slice() });
            cuda::cross_entropy::forward(&on.gpu, x, target, smoothing, log_sums, loss, counts)
        })?;
        let kernels = || {
            let (logits, target) = (self.detach(), target.detach());
            move |grad: Tensor, _: &[bool]| {
                let operands = [("logits", &logits), ("grad", &grad)];
                let on = OnGpu::for_backward("cross_entropy", &operands)?;
                let dx = on.build(*logits.shape(), logits.dtype(), |dx| {
                    let views = [&logits, &target, &log_sums, &grad].map(Tensor::device_view);
                    let [x, target, log_sums, grad] = views.each_ref().map(|t| t.slice());
                    cuda::cross_entropy::backward(&on.gpu, x, target, smoothing, log_sums, grad, dx)
                })?;
                Ok(vec![Some(dx)])
            }
        };
        let composition = || composition(self, target, smoothing);
        let loss = loss.with_fused_backward("cross_entropy", &[self], kernels, composition);
        Ok((loss.with_saved(&[target]), counts))
    }
}

/// The backward pass as operations: `(softmax(logits) - q) / n`, where q is `1 - s + s / classes` at the target, else `s / classes`.
fn composition(
    logits: &Tensor,
    target: &Tensor,
    smoothing: f64,
) -> impl Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + use<> {
    let (logits, target) = (logits.clone(), target.clone());
    move |grad: Tensor, _: &[bool]| {
        let (n, classes) = (logits.dims()[0], logits.dims()[1]);
        let off = smoothing / classes as f64;
        let wide = to_compute_dtype(&logits)?;
        let q = target.one_hot(classes, 1.0 - smoothing + off, off, wide.dtype())?;
        let d = wide.softmax(1)?.sub(&q)?.mul_scalar(1.0 / n as f64)?;
        Ok(vec![Some(d.mul(&grad.to_dtype(d.dtype())?)?.to_dtype(logits.dtype())?)])
    }
}
