//! The gradients of a convolution. Each is bilinear in two tensors, as the convolution is, and its gradients are composed of the same
//! three operations, so a convolution has derivatives of any order.
use super::Conv2dOptions;
use crate::autograd::{GradientSum, PendingTerm, is_tracked};
use crate::cpu::conv2d::{ConvInput, half};
use crate::cuda::pointwise_data_gradient;
use crate::ops::gpu::OnGpu;
use crate::{ConvShape, DType, Device, Result, Tensor, cpu, cuda};

/// The gradient of a convolution's input.
pub(in crate::ops) struct InputGradient {
    /// Gradient of the output.
    pub(in crate::ops) dy: Tensor,
    pub(in crate::ops) weight: Tensor,
    pub(in crate::ops) s: ConvShape,
}

impl InputGradient {
    /// True if the backward function of a batch norm may compute it.
    fn joins(&self) -> bool {
        self.dy.device() != Device::Cpu && pointwise_data_gradient::supports(&self.s, self.dy.dtype())
    }
}

impl PendingTerm for InputGradient {
    fn add_to(&self, sum: Option<Tensor>) -> Result<Tensor> {
        match sum {
            Some(sum) => self.dy.add_conv2d_input_gradient(&self.weight, self.s, sum),
            None => self.dy.conv2d_input_gradient(&self.weight, self.s),
        }
    }
}

impl Tensor {
    /// Adds this result of a convolution to the graph.
    pub(super) fn with_conv2d_backward(
        self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        s: ConvShape,
    ) -> Tensor {
        let inputs: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
        self.with_accumulating_backward("conv2d", &inputs, || {
            let (x, w, has_bias) = (x.clone(), weight.clone(), bias.is_some());
            move |grad: Tensor, needs: &[bool], sums: &mut [GradientSum]| {
                let term = InputGradient { dy: grad.clone(), weight: w.clone(), s };
                let dx = if needs[0] && sums[0].accepts_term && term.joins() {
                    sums[0].term = Some(Box::new(term));
                    None
                } else if needs[0] {
                    Some(term.add_to(sums[0].sum.take())?)
                } else {
                    None
                };
                let dw = needs[1].then(|| x.conv2d_weight_gradient(&grad, s)).transpose()?;
                let mut grads = vec![dx, dw];
                if has_bias {
                    grads.push(needs[2].then(|| bias_gradient(&grad, &s)).transpose()?);
                }
                Ok(grads)
            }
        })
    }

    /// The gradient of a convolution's input plus `sum`; `self` is the gradient of its output. On a GPU it is added in place, and rounded
    /// once, if nothing else refers to `sum` and cuDNN computes this convolution.
    fn add_conv2d_input_gradient(&self, weight: &Tensor, s: ConvShape, sum: Tensor) -> Result<Tensor> {
        let operands = [("grad", self), ("weight", weight), ("sum", &sum)];
        if let Device::Cuda(_) = self.device()
            && sum.is_sole_owner()
            && sum.dtype() == self.dtype()
            && let Some(on) = OnGpu::of("conv2d", &operands)?
        {
            let added = {
                let views = [self, weight, &sum].map(Tensor::device_view);
                let [dy, w, of_sum] = views.each_ref().map(|t| t.slice());
                on.with_op_context(cuda::conv2d::add_data_gradient(&on.gpu, &s, dy, w, of_sum))?
            };
            if added {
                return Ok(sum);
            }
        }
        sum.accumulate(self.conv2d_input_gradient(weight, s)?)
    }

    /// The gradient of a convolution's input; `self` is the gradient of its output.
    fn conv2d_input_gradient(&self, weight: &Tensor, s: ConvShape) -> Result<Tensor> {
        let shape = [s.n, s.h, s.w, s.c_in];
        let operands = [("grad", self), ("weight", weight)];
        let dx = if let Some(on) = OnGpu::of("conv2d", &operands)? {
            on.build(shape, self.dtype(), |dx| {
                let (dy, w) = (self.device_view(), weight.device_view());
                cuda::conv2d::data_gradient(&on.gpu, &s, dy.slice(), w.slice(), dx)
            })?
        } else if self.is_half_on_cpu() {
            dispatch_half!(self.dtype(), T => {
                let (dy, w) = (self.read::<T>()?, weight.read::<T>()?);
                Tensor::build(shape, |dx: &mut [T]| half::data_gradient(&s, &dy, &w, dx))?
            })
        } else {
            dispatch_real!("conv2d", [("grad", self), ("weight", weight)], T => {
                let (dy, w) = (self.read::<T>()?, weight.read::<T>()?);
                Tensor::build(shape, |dx: &mut [T]| cpu::conv2d::data_gradient(&s, &dy, &w, dx))
            })?
        };
        Ok(dx.with_composed_backward("conv2d", &[self, weight], || {
            let (dy, w) = (self.clone(), weight.clone());
            move |grad: Tensor, needs: &[bool]| {
                let of_dy = needs[0].then(|| grad.conv2d(&w, None, &options(&s))).transpose()?;
                let of_w = needs[1].then(|| grad.conv2d_weight_gradient(&dy, s)).transpose()?;
                Ok(vec![of_dy, of_w])
            }
        }))
    }

    /// The gradient of a convolution's weight; `self` is its input, `dy` the gradient of its output.
    fn conv2d_weight_gradient(&self, dy: &Tensor, s: ConvShape) -> Result<Tensor> {
        let shape = [s.c_out, s.kernel[0], s.kernel[1], s.group_in()];
        let operands = [("x", self), ("grad", dy)];
        let dw = if let Some(on) = OnGpu::of("conv2d", &operands)? {
            on.build(shape, self.dtype(), |dw| {
                let (x, dy) = (self.device_view(), dy.device_view());
                cuda::conv2d::weight_gradient(&on.gpu, &s, x.slice(), dy.slice(), dw)
            })?
        } else if self.is_half_on_cpu() {
            dispatch_half!(self.dtype(), T => {
                let norm = self
                    .normalization::<T>()
                    .filter(|_| half::supports_prologue::<T>(&s));
                let (x, dy) = (norm.as_ref().map_or(self, |norm| &norm.x).read::<T>()?, dy.read::<T>()?);
                let x = norm.as_ref().map_or_else(|| ConvInput::plain(&x), |norm| norm.conv_input(&x));
                Tensor::build(shape, |dw: &mut [T]| half::weight_gradient(&s, x, &dy, dw))?
            })
        } else if let Some(norm) = self.normalization::<f32>()
            && cpu::conv2d::weight_gradient_supports(&s, norm.activation)
        {
            let (x, dy) = (norm.x.read::<f32>()?, dy.read::<f32>()?);
            let input = norm.conv_input(&x);
            Tensor::build(shape, |dw: &mut [f32]| {
                cpu::conv2d::weight_gradient_normalized(&s, input, &dy, dw)
            })?
        } else {
            dispatch_real!("conv2d", [("x", self), ("grad", dy)], T => {
                let (x, dy) = (self.read::<T>()?, dy.read::<T>()?);
                Tensor::build(shape, |dw: &mut [T]| cpu::conv2d::weight_gradient(&s, &x, &dy, dw))
            })?
        };
        Ok(dw.with_composed_backward("conv2d", &[self, dy], || {
            let (x, dy) = (self.clone(), dy.clone());
            move |grad: Tensor, needs: &[bool]| {
                let of_x = needs[0].then(|| dy.conv2d_input_gradient(&grad, s)).transpose()?;
                let of_dy = needs[1].then(|| x.conv2d(&grad, None, &options(&s))).transpose()?;
                Ok(vec![of_x, of_dy])
            }
        }))
    }
}

fn bias_gradient(dy: &Tensor, s: &ConvShape) -> Result<Tensor> {
    let has_kernel = dy.device() == Device::Cpu && matches!(dy.dtype(), DType::F32 | DType::F64);
    if !has_kernel || is_tracked(&[dy]) {
        return dy.reshape([s.n * s.out_h() * s.out_w(), s.c_out])?.sum(&[0], false);
    }
    dispatch_real!("conv2d", [("grad", dy)], T => {
        let dy = dy.read::<T>()?;
        Tensor::build([s.c_out], |db: &mut [T]| cpu::conv2d::bias_gradient(s, &dy, db))
    })
}

/// The options of a convolution.
pub(super) fn options(s: &ConvShape) -> Conv2dOptions {
    let ConvShape { stride, padding, dilation, groups, algorithm, .. } = *s;
    Conv2dOptions { stride, padding, dilation, groups, algorithm }
}
