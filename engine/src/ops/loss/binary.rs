//! Binary cross entropy.
use super::cpu::soft_cross_entropy as on_cpu;
use super::cuda::soft_cross_entropy as on_cuda;
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, composed_backward, for_real};
use crate::ops::norm::to_compute_dtype;
use crate::{Element, Result, Tensor};
use std::sync::Arc;

impl Tensor {
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
        let (n, _) = self.check_dense_target(NAME, target)?;
        let divisor = if sum_classes { n } else { self.numel() };
        apply(BinaryCrossEntropy { pos_weight, divisor }, &[self, &target.detach()])
    }
}

const NAME: &str = "binary_cross_entropy";

/// The sum of all elements' losses over a divisor.
#[derive(Clone, Copy)]
struct BinaryCrossEntropy {
    pos_weight: f64,
    divisor: usize,
}

impl Op for BinaryCrossEntropy {
    fn spec(&self) -> Spec {
        Spec::new(NAME, &["logits", "target"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::new((), x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => {
            let total = on_cpu::binary_forward::<T>(&call.x(0)?, &call.x(1)?, self.pos_weight);
            call.y::<T>(0)?[0] = <T as Element>::from_f64(total * (1.0 / self.divisor as f64));
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        on_cuda::binary_forward(gpu, x[0], x[1], self.pos_weight, self.divisor, y[0])
    }
}

impl Derivative for BinaryCrossEntropy {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0, 1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        let operands = [saved.operand(0), saved.operand(1), &dy];
        Ok(vec![Some(apply(BinaryCrossEntropyGrad(*self), &operands)?), None])
    }
}

/// Gradient of [`BinaryCrossEntropy`]: `((1 - t) - (1 + (pos_weight - 1) t) sigmoid(-x)) / divisor`.
struct BinaryCrossEntropyGrad(BinaryCrossEntropy);

impl Op for BinaryCrossEntropyGrad {
    fn spec(&self) -> Spec {
        Spec::new(NAME, &["logits", "target", "grad"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let BinaryCrossEntropy { pos_weight, divisor } = self.0;
        for_real!(call, T => {
            let scale = call.x::<T>(2)?[0].to_f64() * (1.0 / divisor as f64);
            on_cpu::binary_backward::<T>(&call.x(0)?, &call.x(1)?, pos_weight, scale, &mut call.y(0)?);
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        on_cuda::binary_backward(gpu, x[0], x[1], self.0.pos_weight, self.0.divisor, x[2], y[0])
    }
}

impl Derivative for BinaryCrossEntropyGrad {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0, 1, 2])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        let BinaryCrossEntropy { pos_weight, divisor } = self.0;
        composed_backward(saved, &dy, needs, |operands| {
            let [logits, target, grad] = operands else { unreachable!("three operands") };
            let (x, t) = (to_compute_dtype(logits)?, to_compute_dtype(target)?);
            let positive = t.affine(pos_weight - 1.0, 1.0)?.mul(&x.neg()?.sigmoid()?)?;
            let d = t.affine(-1.0, 1.0)?.sub(&positive)?.mul_scalar(1.0 / divisor as f64)?;
            d.mul(&grad.to_dtype(d.dtype())?)?.to_dtype(logits.dtype())
        })
    }
}
