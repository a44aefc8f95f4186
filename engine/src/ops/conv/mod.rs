//! Two-dimensional convolution (cross-correlation, as in every deep learning library).
pub mod cpu;
pub(crate) mod cuda;
pub(super) mod gradients;
mod input;
mod norm;
#[cfg(test)]
mod tests;

use crate::autograd::{Derivative, GradientSum, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::dtype::{bf16, f16};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, compute, launch, match_half, with_derivative};
use crate::window::MAX_SIDE;
use crate::{ConvAlgorithm, ConvShape, DType, Device, Error, Result, Shape, Tensor};
use cpu::{self as kernel, half};
use gradients::{InputGradient, bias_gradient, weight_gradient};
use input::with_input;
use std::sync::Arc;

/// Options of a convolution; pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// Step between windows.
    pub stride: [usize; 2],
    /// Zeros added on each side.
    pub padding: [usize; 2],
    /// Spacing between kernel elements.
    pub dilation: [usize; 2],
    /// Channel groups, convolved independently.
    pub groups: usize,
    /// Algorithm on the CPU, of the forward pass and all derivatives.
    pub algorithm: ConvAlgorithm,
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Conv2dOptions {
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
            groups: 1,
            algorithm: ConvAlgorithm::default(),
        }
    }
}

impl Tensor {
    /// Convolves images `[n, h, w, c]` with a weight `[out, kh, kw, c / groups]` and adds a bias `[out]`; the result is
    /// `[n, h', w', out]` with `h' = (h + 2p - d(kh-1) - 1) / s + 1`. All operands have one dtype: f32, f16, bf16, or f64 on the CPU.
    pub fn conv2d(&self, weight: &Tensor, bias: Option<&Tensor>, options: &Conv2dOptions) -> Result<Tensor> {
        let operands: Vec<&Tensor> = [self, weight].into_iter().chain(bias).collect();
        let named: Vec<_> = OPERANDS.into_iter().zip(operands.iter().copied()).collect();
        let conv = Conv2d::of(self, conv_shape(&named, options)?);
        let y = compute(&conv, &operands)?;
        Ok(conv.with_derivative(y, &operands))
    }

    /// [`Tensor::conv2d`] without a bias and, on a GPU where cuDNN computes them in the same kernel, the sum and the sum of squares of
    /// each output channel: `[2, out]`, in f32.
    pub(super) fn conv2d_with_sums(
        &self,
        weight: &Tensor,
        options: &Conv2dOptions,
    ) -> Result<(Tensor, Option<Tensor>)> {
        if self.device() == Device::Cpu {
            return Ok((self.conv2d(weight, None, options)?, None));
        }
        let operands = [("x", self), ("weight", weight)];
        let s = conv_shape(&operands, options)?;
        let (output, of_sums) =
            (Shape::new(&[s.n, s.out_h(), s.out_w(), s.c_out])?, Shape::new(&[2, s.c_out])?);
        let fused = launch("conv2d", &operands, |gpu, x| {
            let y = Tensor::build_on(gpu, output, self.dtype(), |_| Ok(()))?;
            let sums = Tensor::build_on(gpu, of_sums, DType::F32, |_| Ok(()))?;
            let has_sums = {
                let (y, sums) = (y.device_view(), sums.device_view());
                cuda::forward_with_sums(gpu, &s, x[0], x[1], y.slice(), sums.slice())?
            };
            Ok(has_sums.then_some((y, sums)))
        })?;
        match fused {
            Some((y, sums)) => Ok((Conv2d::of(self, s).with_derivative(y, &[self, weight]), Some(sums))),
            None => Ok((self.conv2d(weight, None, options)?, None)),
        }
    }
}

const OPERANDS: [&str; 3] = ["x", "weight", "bias"];

/// A convolution of x by a weight, plus a bias if there is one.
#[derive(Clone, Copy)]
struct Conv2d {
    s: ConvShape,
    /// The CPU kernels read and write f16 or bf16.
    stores_half: bool,
}

impl Conv2d {
    /// The convolution of images with the device and dtype of `x`.
    fn of(x: &Tensor, s: ConvShape) -> Conv2d {
        let stores_half = match x.dtype() {
            DType::BF16 => half::supports::<bf16>(&s),
            DType::F16 => half::supports::<f16>(&s),
            _ => false,
        };
        Conv2d { s, stores_half }
    }

    /// Its result in the graph. An input that can be computed again is not kept.
    fn with_derivative(self, y: Tensor, operands: &[&Tensor]) -> Tensor {
        let input = operands[0].recomputable();
        let operands: Vec<&Tensor> = [&input].into_iter().chain(operands[1..].iter().copied()).collect();
        with_derivative("conv2d", &operands, y, self)
    }

    /// The specification of an operation on `operands`.
    fn spec(&self, operands: &'static [&'static str]) -> Spec {
        let spec = Spec::new("conv2d", operands);
        if self.stores_half { spec.stores_half_on_cpu() } else { spec }
    }
}

impl Op for Conv2d {
    fn spec(&self) -> Spec {
        self.spec(&OPERANDS)
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let s = &self.s;
        Ok(vec![TensorInfo::new([s.n, s.out_h(), s.out_w(), s.c_out], x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let (s, x) = (&self.s, call.tensor(0));
        match call.dtype() {
            DType::F32 => {
                let (w, b, mut y) = (call.x(1)?, call.optional(2)?, call.y(0)?);
                with_input(
                    x,
                    |norm| kernel::forward_supports(s, norm.activation),
                    |x| kernel::forward_of::<f32>(s, x, &w, b.as_deref(), &mut y),
                )
            }
            DType::F64 => {
                let b = call.optional(2)?;
                kernel::forward::<f64>(s, &call.x(0)?, &call.x(1)?, b.as_deref(), &mut call.y(0)?);
                Ok(())
            }
            dtype => match_half!(dtype, T => {
                let (w, b, mut y) = (call.x::<T>(1)?, call.optional(2)?, call.y(0)?);
                with_input(
                    x,
                    |_| half::supports_prologue::<T>(s),
                    |x| half::forward::<T>(s, x, &w, b.as_deref(), &mut y),
                )
            }),
        }
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::forward(gpu, &self.s, x[0], x[1], y[0])?;
        match x.get(2) {
            Some(bias) => crate::ops::elementwise::cuda::binary::add_to_rows(gpu, y[0], *bias),
            None => Ok(()),
        }
    }
}

impl Derivative for Conv2d {
    fn saves(&self, needs: &[bool]) -> Saves {
        Saves::default().and_operand_if(needs[1], 0).and_operand_if(needs[0], 1)
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        self.backward_into(saved, dy, needs, &mut [GradientSum::default()])
    }

    fn accumulates(&self) -> bool {
        true
    }

    fn backward_into(
        &self,
        saved: &Saved,
        dy: Tensor,
        needs: &[bool],
        sums: &mut [GradientSum],
    ) -> Result<Gradients> {
        let mut dx = None;
        if needs[0] {
            let term = InputGradient { conv: *self, dy: dy.clone(), weight: saved.operand(1).clone() };
            match sums[0].accepts_term && term.joins() {
                true => sums[0].term = Some(Box::new(term)),
                false => dx = Some(term.added_to(sums[0].sum.take())?),
            }
        }
        let dw = needs[1].then(|| weight_gradient(*self, saved.operand(0), &dy)).transpose()?;
        let mut gradients = vec![dx, dw];
        if let Some(needed) = needs.get(2) {
            gradients.push(needed.then(|| bias_gradient(&dy)).transpose()?);
        }
        Ok(gradients)
    }
}

/// Checks the operands and returns the geometry.
pub(super) fn conv_shape(operands: &[(&'static str, &Tensor)], options: &Conv2dOptions) -> Result<ConvShape> {
    let fail = |why: String| Err(Error::shape("conv2d", operands, why));
    let Conv2dOptions { stride, padding, dilation, groups, algorithm } = *options;
    let (x, weight) = (operands[0].1, operands[1].1);
    let (&[n, h, w, c_in], &[c_out, kh, kw, group_in]) = (x.dims(), weight.dims()) else {
        return fail("needs x [n, h, w, c] and weight [out, kh, kw, c / groups]".into());
    };
    if groups == 0 || stride.contains(&0) || dilation.contains(&0) || kh == 0 || kw == 0 {
        return fail(format!("groups, stride, dilation and kernel must be at least 1: {options:?}"));
    }
    if c_in % groups != 0 || c_out % groups != 0 || c_in / groups != group_in {
        return fail(format!(
            "{c_in} input channels in {groups} groups need a weight with {} input channels, and output channels divisible by the groups",
            c_in / groups
        ));
    }
    if operands.get(2).is_some_and(|(_, b)| b.dims() != [c_out]) {
        return fail(format!("bias must be [{c_out}]"));
    }
    // A larger stride or dilation makes the same windows.
    let [stride, dilation] = [stride, dilation].map(|pair| pair.map(|v| v.min(MAX_SIDE)));
    let s =
        ConvShape { n, h, w, c_in, c_out, kernel: [kh, kw], stride, padding, dilation, groups, algorithm };
    if !s.is_valid() {
        return fail(format!(
            "a kernel of {kh}x{kw} with dilation {dilation:?} must fit into images of {h}x{w} with padding {padding:?}, at most 2^31 - 1 \
             high and wide, and the result into memory"
        ));
    }
    Ok(s)
}
