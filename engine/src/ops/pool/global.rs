//! Global pooling.
use super::cpu;
use super::cuda::adaptive as cuda;
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, composed_backward, for_real, with_derivative};
use crate::{Result, Tensor};
use std::sync::Arc;

/// Global pooling type; timm's names in parentheses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalPool {
    /// Mean (`avg`, `fastavg`).
    Avg,
    /// Maximum; of equal maxima the first gets the gradient (`max`).
    Max,
    /// Mean of `Avg` and `Max` (`avgmax`).
    AvgMax,
    /// Concatenation of `Avg` and `Max`: twice the channels (`catavgmax`).
    CatAvgMax,
    /// Maximum; the gradient is divided evenly among equal maxima (`fastmax`).
    FastMax,
    /// Mean of `Avg` and `FastMax` (`fastavgmax`).
    FastAvgMax,
    /// Concatenation of `Avg` and `FastMax` (`fastcatavgmax`).
    FastCatAvgMax,
}

impl std::str::FromStr for GlobalPool {
    type Err = String;

    /// Parses timm's name.
    fn from_str(name: &str) -> std::result::Result<GlobalPool, String> {
        Ok(match name {
            "avg" | "fastavg" => GlobalPool::Avg,
            "max" => GlobalPool::Max,
            "avgmax" => GlobalPool::AvgMax,
            "catavgmax" => GlobalPool::CatAvgMax,
            "fastmax" => GlobalPool::FastMax,
            "fastavgmax" => GlobalPool::FastAvgMax,
            "fastcatavgmax" => GlobalPool::FastCatAvgMax,
            _ => {
                return Err(format!(
                    "unknown global pooling {name:?}; choose avg, max, avgmax, catavgmax, fastavg, fastmax, fastavgmax or fastcatavgmax"
                ));
            }
        })
    }
}

impl Tensor {
    /// Global pooling: `[n, h, w, c]` to `[n, c]`, or `[n, 2c]` for the types that concatenate. f32, f16, bf16; f64 on the CPU.
    pub fn global_pool(&self, kind: GlobalPool) -> Result<Tensor> {
        let vector = |y: Tensor| y.flatten(1);
        let avg = || vector(self.adaptive_avg_pool2d([1, 1])?);
        let max = || vector(self.adaptive_max_pool2d([1, 1])?);
        let fast_max = || self.global_amax();
        match kind {
            GlobalPool::Avg => avg(),
            GlobalPool::Max => max(),
            GlobalPool::FastMax => fast_max(),
            GlobalPool::AvgMax => avg()?.add(&max()?)?.mul_scalar(0.5),
            GlobalPool::FastAvgMax => avg()?.add(&fast_max()?)?.mul_scalar(0.5),
            GlobalPool::CatAvgMax => Tensor::cat(&[&avg()?, &max()?], 1),
            GlobalPool::FastCatAvgMax => Tensor::cat(&[&avg()?, &fast_max()?], 1),
        }
    }

    /// The maximum of each image, `[n, c]`; the gradient is divided evenly among equal maxima, as in PyTorch's `amax`.
    fn global_amax(&self) -> Result<Tensor> {
        let y = self.detach().adaptive_max_pool2d([1, 1])?.flatten(1)?;
        Ok(with_derivative("global_pool", &[self], y, GlobalAmax))
    }
}

/// Derivative of the maximum of each image.
struct GlobalAmax;

impl Derivative for GlobalAmax {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0]).and_results(&[0])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        // Equal maxima are constants.
        let (x, y) = (saved.operand(0).detach(), saved.result(0).detach());
        Ok(vec![Some(apply(GlobalAmaxGrad { channels: y.dims()[1] }, &[&x, &y, &dy])?)])
    }
}

/// The gradient of each image's maximum, divided evenly among the pixels that equal it.
struct GlobalAmaxGrad {
    channels: usize,
}

impl Op for GlobalAmaxGrad {
    fn spec(&self) -> Spec {
        Spec::new("global_pool", &["x", "y", "grad"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => cpu::amax_backward::<T>(&call.x(0)?, &call.x(1)?, &call.x(2)?, self.channels, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::amax_backward(gpu, self.channels, x[0], x[1], x[2], y[0])
    }
}

impl Derivative for GlobalAmaxGrad {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0, 1, 2])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        composed_backward(saved, &dy, needs, |operands| {
            let [x, y, grad] = operands else { unreachable!("three operands") };
            let (n, c) = (y.dims()[0], y.dims()[1]);
            let is_maximum = x.equal(&y.reshape([n, 1, 1, c])?)?;
            is_maximum.mul(&grad.reshape([n, 1, 1, c])?.div(&is_maximum.sum(&[1, 2], true)?)?)
        })
    }
}
