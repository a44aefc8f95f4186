//! The gradients of a convolution. Each is bilinear in two tensors, as the convolution is, and its gradients are composed of the same
//! three operations, so a convolution has derivatives of any order.
use super::cpu::{self as kernel, half};
use super::cuda::{self, pointwise_data_gradient};
use super::input::with_input;
use super::{Conv2d, Conv2dOptions};
use crate::autograd::{Derivative, Gradients, PendingTerm, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_real, launch, match_half};
use crate::{ConvShape, DType, Device, Result, Tensor};
use std::sync::Arc;

/// The gradient of a convolution's input.
pub(in crate::ops) struct InputGradient {
    pub(super) conv: Conv2d,
    /// Gradient of the output.
    pub(in crate::ops) dy: Tensor,
    pub(in crate::ops) weight: Tensor,
}

impl InputGradient {
    /// Shape of the convolution.
    pub(in crate::ops) fn shape(&self) -> &ConvShape {
        &self.conv.s
    }

    /// True if the backward function of a batch norm may compute it.
    pub(super) fn joins(&self) -> bool {
        self.dy.device() != Device::Cpu && pointwise_data_gradient::supports(&self.conv.s, self.dy.dtype())
    }

    /// The gradient plus `sum`. On a GPU it is added in place, and rounded once, if nothing else refers to `sum` and cuDNN computes this
    /// convolution.
    pub(super) fn added_to(&self, sum: Option<Tensor>) -> Result<Tensor> {
        let Some(sum) = sum else { return input_gradient(self.conv, &self.dy, &self.weight) };
        let in_place = self.dy.device() != Device::Cpu
            && sum.is_sole_owner()
            && sum.dtype() == self.dy.dtype()
            && launch("conv2d", &[("grad", &self.dy), ("weight", &self.weight), ("sum", &sum)], |gpu, x| {
                cuda::add_data_gradient(gpu, &self.conv.s, x[0], x[1], x[2])
            })?;
        if in_place {
            return Ok(sum);
        }
        sum.accumulate(input_gradient(self.conv, &self.dy, &self.weight)?)
    }
}

impl PendingTerm for InputGradient {
    fn add_to(&self, sum: Option<Tensor>) -> Result<Tensor> {
        self.added_to(sum)
    }
}

/// The gradient of a convolution's input.
fn input_gradient(conv: Conv2d, dy: &Tensor, weight: &Tensor) -> Result<Tensor> {
    apply(InputGradientOp(conv), &[dy, weight])
}

/// The gradient of a convolution's weight.
pub(super) fn weight_gradient(conv: Conv2d, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    apply(WeightGradientOp(conv), &[x, dy])
}

/// The gradient of a convolution's bias.
pub(super) fn bias_gradient(dy: &Tensor) -> Result<Tensor> {
    dy.sum(&[0, 1, 2], false)
}

/// The options of a convolution.
pub(super) fn options(s: &ConvShape) -> Conv2dOptions {
    let ConvShape { stride, padding, dilation, groups, algorithm, .. } = *s;
    Conv2dOptions { stride, padding, dilation, groups, algorithm }
}

/// `(dy, weight) -> dx`
struct InputGradientOp(Conv2d);

impl Op for InputGradientOp {
    fn spec(&self) -> Spec {
        self.0.spec(&["grad", "weight"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let s = &self.0.s;
        Ok(vec![TensorInfo::new([s.n, s.h, s.w, s.c_in], x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let (s, dtype) = (&self.0.s, call.dtype());
        if dtype.is_half() {
            return match_half!(dtype, T => {
                half::data_gradient::<T>(s, &call.x(0)?, &call.x(1)?, &mut call.y(0)?);
                Ok(())
            });
        }
        for_real!(call, T => kernel::data_gradient::<T>(s, &call.x(0)?, &call.x(1)?, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::data_gradient(gpu, &self.0.s, x[0], x[1], y[0])
    }
}

impl Derivative for InputGradientOp {
    fn saves(&self, needs: &[bool]) -> Saves {
        Saves::default().and_operand_if(needs[1], 0).and_operand_if(needs[0], 1)
    }

    fn backward(&self, saved: &Saved, ddx: Tensor, needs: &[bool]) -> Result<Gradients> {
        let of_dy = needs[0].then(|| ddx.conv2d(saved.operand(1), None, &options(&self.0.s))).transpose()?;
        let of_weight = needs[1].then(|| weight_gradient(self.0, &ddx, saved.operand(0))).transpose()?;
        Ok(vec![of_dy, of_weight])
    }
}

/// `(x, dy) -> dw`
struct WeightGradientOp(Conv2d);

impl Op for WeightGradientOp {
    fn spec(&self) -> Spec {
        self.0.spec(&["x", "grad"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let s = &self.0.s;
        Ok(vec![TensorInfo::new([s.c_out, s.kernel[0], s.kernel[1], s.group_in()], x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let (s, x) = (&self.0.s, call.tensor(0));
        match call.dtype() {
            DType::F32 => {
                let (dy, mut dw) = (call.x(1)?, call.y(0)?);
                with_input(
                    x,
                    |norm| kernel::weight_gradient_supports(s, norm.activation),
                    |x| kernel::weight_gradient_of::<f32>(s, x, &dy, &mut dw),
                )
            }
            DType::F64 => {
                kernel::weight_gradient::<f64>(s, &call.x(0)?, &call.x(1)?, &mut call.y(0)?);
                Ok(())
            }
            dtype => match_half!(dtype, T => {
                let (dy, mut dw) = (call.x(1)?, call.y(0)?);
                with_input(
                    x,
                    |_| half::supports_prologue::<T>(s),
                    |x| half::weight_gradient::<T>(s, x, &dy, &mut dw),
                )
            }),
        }
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::weight_gradient(gpu, &self.0.s, x[0], x[1], y[0])
    }
}

impl Derivative for WeightGradientOp {
    fn saves(&self, needs: &[bool]) -> Saves {
        Saves::default().and_operand_if(needs[1], 0).and_operand_if(needs[0], 1)
    }

    fn backward(&self, saved: &Saved, ddw: Tensor, needs: &[bool]) -> Result<Gradients> {
        let of_x = needs[0].then(|| input_gradient(self.0, saved.operand(1), &ddw)).transpose()?;
        let of_dy = needs[1].then(|| saved.operand(0).conv2d(&ddw, None, &options(&self.0.s))).transpose()?;
        Ok(vec![of_x, of_dy])
    }
}
