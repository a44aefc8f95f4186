//! Cross entropy with soft targets, and binary cross entropy.
use super::gpu::OnGpu;
use super::normalised::to_compute_dtype;
use crate::cpu::cross_entropy::top_k_counts;
use crate::cpu::soft_cross_entropy as kernel;
use crate::cuda::cross_entropy::TopKCounts;
use crate::{DType, Element, Error, Result, Tensor, cuda};

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
        let (n, _) = self.check_dense_target("soft_target_cross_entropy", target)?;
        if let Some(on) = OnGpu::of("soft_target_cross_entropy", &[("logits", self), ("target", target)])? {
            return self.soft_target_cross_entropy_gpu(&on, target, n, k);
        }
        if self.is_half_on_cpu() {
            return self.widened()?.soft_cross_entropy(&target.widened()?, k);
        }
        dispatch_real!("soft_target_cross_entropy", [("logits", self), ("target", target)], T => {
            let mut log_sums = vec![T::default(); n];
            let (x, t) = (self.read::<T>()?, target.read::<T>()?);
            let counts = |k| Tensor::from_slice(&top_k_counts(&x, &kernel::argmax_rows(&t, n), k), [2]);
            let counts = k.map(counts).transpose()?;
            let loss = kernel::soft_forward(&x, &t, &mut log_sums);
            let loss = Tensor::scalar(<T as Element>::from_f64(loss))?;
            let kernels = || {
                let (logits, target) = (self.detach(), target.detach());
                move |grad: Tensor, _: &[bool]| {
                    let scale = grad.item()?;
                    let (x, t) = (logits.read::<T>()?, target.read::<T>()?);
                    let dx = Tensor::build(*logits.shape(), |dx: &mut [T]| {
                        kernel::soft_backward(&x, &t, &log_sums, scale, dx)
                    })?;
                    Ok(vec![Some(dx)])
                }
            };
            let composition = || soft_composition(self, target);
            let loss = loss.with_fused_backward("soft_target_cross_entropy", &[self], kernels, composition);
            Ok((loss.with_saved(&[target]), counts))
        })
    }

    /// Binary cross entropy with logits, against labels in 0..1, for each class independently:
    /// `(1 - t) x + (1 + (pos_weight - 1) t) * softplus(-x)`, averaged over all elements, or with `sum_classes` summed over
    /// classes and averaged over the batch. Logits and target `[n, classes]`, of one dtype: f32, f16, bf16, or f64 on the CPU. The result is a
    /// scalar of that dtype. The target gets no gradient.
    pub fn binary_cross_entropy(
        &self,
        target: &Tensor,
        pos_weight: f64,
        sum_classes: bool,
    ) -> Result<Tensor> {
        let (n, _) = self.check_dense_target("binary_cross_entropy", target)?;
        let divisor = if sum_classes { n } else { self.numel() };
        if let Some(on) = OnGpu::of("binary_cross_entropy", &[("logits", self), ("target", target)])? {
            return self.binary_cross_entropy_gpu(&on, target, pos_weight, divisor);
        }
        if self.is_half_on_cpu() {
            let target = target.widened()?;
            return self.widened()?.binary_cross_entropy(&target, pos_weight, sum_classes)?.rounded_as(self);
        }
        let scale = 1.0 / divisor as f64;
        dispatch_real!("binary_cross_entropy", [("logits", self), ("target", target)], T => {
            let loss = kernel::binary_forward(&self.read::<T>()?, &target.read()?, pos_weight) * scale;
            let kernels = || {
                let (logits, target) = (self.detach(), target.detach());
                move |grad: Tensor, _: &[bool]| {
                    let scale = grad.item()? * scale;
                    let (x, t) = (logits.read::<T>()?, target.read::<T>()?);
                    let dx = Tensor::build(*logits.shape(), |dx: &mut [T]| {
                        kernel::binary_backward(&x, &t, pos_weight, scale, dx)
                    })?;
                    Ok(vec![Some(dx)])
                }
            };
            let composition = || binary_composition(self, target, pos_weight, divisor);
            let loss = Tensor::scalar(<T as Element>::from_f64(loss))?;
            Ok(loss.with_fused_backward("binary_cross_entropy", &[self], kernels, composition).with_saved(&[target]))
        })
    }

    fn check_dense_target(&self, op: &'static str, target: &Tensor) -> Result<(usize, usize)> {
        let operands = [("logits", self), ("target", target)];
        super::same_dtype(op, &operands)?;
        match self.dims() {
            &[n, classes] if n > 0 && classes > 0 && target.shape() == self.shape() => Ok((n, classes)),
            _ => Err(Error::shape(
                op,
                &operands,
                "logits and target must both be [n, classes], with at least one row",
            )),
        }
    }
}

/// CUDA branches.
impl Tensor {
    fn soft_target_cross_entropy_gpu(
        &self,
        on: &OnGpu,
        target: &Tensor,
        n: usize,
        k: Option<usize>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        const OP: &str = "soft_target_cross_entropy";
        let saved = on.empty([2, n], DType::F32)?;
        let counts = k.map(|_| on.empty([2], DType::I64)).transpose()?;
        let loss = on.build((), DType::F32, |loss| {
            let views = [self, target, &saved].map(Tensor::device_view);
            let [x, target, saved] = views.each_ref().map(|t| t.slice());
            let to = counts.as_ref().map(Tensor::device_view);
            let counts = k.zip(to.as_ref()).map(|(k, to)| TopKCounts { k, counts: to.slice() });
            cuda::soft_cross_entropy::soft_forward(&on.gpu, x, target, saved, loss, counts)
        })?;
        let kernels = || {
            let (logits, target) = (self.detach(), target.detach());
            move |grad: Tensor, _: &[bool]| {
                let operands = [("logits", &logits), ("grad", &grad)];
                let on = OnGpu::for_backward(OP, &operands)?;
                let dx = on.build(*logits.shape(), logits.dtype(), |dx| {
                    let views = [&logits, &target, &saved, &grad].map(Tensor::device_view);
                    let [x, target, saved, grad] = views.each_ref().map(|t| t.slice());
                    cuda::soft_cross_entropy::soft_backward(&on.gpu, x, target, saved, grad, dx)
                })?;
                Ok(vec![Some(dx)])
            }
        };
        let composition = || soft_composition(self, target);
        let loss = loss.with_fused_backward(OP, &[self], kernels, composition);
        Ok((loss.with_saved(&[target]), counts))
    }

    fn binary_cross_entropy_gpu(
        &self,
        on: &OnGpu,
        target: &Tensor,
        pos_weight: f64,
        divisor: usize,
    ) -> Result<Tensor> {
        const OP: &str = "binary_cross_entropy";
        let loss = on.build((), self.dtype(), |loss| {
            let (x, target) = (self.device_view(), target.device_view());
            let (x, target) = (x.slice(), target.slice());
            cuda::soft_cross_entropy::binary_forward(&on.gpu, x, target, pos_weight, divisor, loss)
        })?;
        let kernels = || {
            let (logits, target) = (self.detach(), target.detach());
            move |grad: Tensor, _: &[bool]| {
                let operands = [("logits", &logits), ("grad", &grad)];
                let on = OnGpu::for_backward(OP, &operands)?;
                let dx = on.build(*logits.shape(), logits.dtype(), |dx| {
                    let views = [&logits, &target, &grad].map(Tensor::device_view);
                    let [x, target, grad] = views.each_ref().map(|t| t.slice());
                    cuda::soft_cross_entropy::binary_backward(
                        &on.gpu, x, target, pos_weight, divisor, grad, dx,
                    )
                })?;
                Ok(vec![Some(dx)])
            }
        };
        let composition = || binary_composition(self, target, pos_weight, divisor);
        Ok(loss.with_fused_backward(OP, &[self], kernels, composition).with_saved(&[target]))
    }
}

/// The backward pass as operations: `(softmax(logits) sum(t) - t) / n`.
fn soft_composition(
    logits: &Tensor,
    target: &Tensor,
) -> impl Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + use<> {
    let (logits, target) = (logits.clone(), target.detach());
    move |grad: Tensor, _: &[bool]| {
        let (x, t) = (to_compute_dtype(&logits)?, to_compute_dtype(&target)?);
        let d = x.softmax(1)?.mul(&t.sum(&[1], true)?)?.sub(&t)?.mul_scalar(1.0 / t.dims()[0] as f64)?;
        Ok(vec![Some(d.mul(&grad.to_dtype(d.dtype())?)?.to_dtype(logits.dtype())?)])
    }
}

/// The backward pass as operations: `((1 - t) - (1 + (pos_weight - 1) t) sigmoid(-x)) / divisor`.
fn binary_composition(
    logits: &Tensor,
    target: &Tensor,
    pos_weight: f64,
    divisor: usize,
) -> impl Fn(Tensor, &[bool]) -> Result<Vec<Option<Tensor>>> + use<> {
    let (logits, target) = (logits.clone(), target.detach());
    move |grad: Tensor, _: &[bool]| {
        let (x, t) = (to_compute_dtype(&logits)?, to_compute_dtype(&target)?);
        let positive = t.affine(pos_weight - 1.0, 1.0)?.mul(&x.neg()?.sigmoid()?)?;
        let d = t.affine(-1.0, 1.0)?.sub(&positive)?.mul_scalar(1.0 / divisor as f64)?;
        Ok(vec![Some(d.mul(&grad.to_dtype(d.dtype())?)?.to_dtype(logits.dtype())?)])
    }
}
