//! Two-dimensional convolution (cross-correlation, as in every deep learning library).
pub(super) mod gradients;
#[cfg(test)]
mod tests;

use super::gpu::OnGpu;
use super::half::widened;
use crate::cpu::conv2d::{ConvInput, half};
use crate::cpu::stored::Stored;
use crate::dtype::{bf16, f16};
use crate::window::MAX_SIDE;
use crate::{ConvAlgorithm, ConvShape, DType, Error, Result, Tensor, cpu, cuda};

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
        let mut operands = vec![("x", self), ("weight", weight)];
        operands.extend(bias.map(|b| ("bias", b)));
        super::same_dtype("conv2d", &operands)?;
        let s = conv_shape(&operands, options)?;
        if let Some(on) = OnGpu::of("conv2d", &operands)? {
            return self.conv2d_gpu(&on, weight, bias, s);
        }
        match self.dtype() {
            DType::BF16 if half::supports::<bf16>(&s) => return self.conv2d_half::<bf16>(weight, bias, s),
            DType::F16 if half::supports::<f16>(&s) => return self.conv2d_half::<f16>(weight, bias, s),
            _ => {}
        }
        if self.is_half_on_cpu() {
            let bias = widened(bias)?;
            return self.widened()?.conv2d(&weight.widened()?, bias.as_ref(), options)?.rounded_as(self);
        }
        let input = self.recomputable();
        if let Some(y) = self.conv2d_normalized(weight, bias, &s)? {
            return Ok(y.with_conv2d_backward(&input, weight, bias, s));
        }
        let y = dispatch_real!("conv2d", [("x", self), ("weight", weight)], T => {
            let (x, w) = (self.read::<T>()?, weight.read::<T>()?);
            let b = bias.map(|b| b.read::<T>()).transpose()?;
            Tensor::build([s.n, s.out_h(), s.out_w(), s.c_out], |y: &mut [T]| {
                cpu::conv2d::forward(&s, &x, &w, b.as_deref(), y)
            })
        })?;
        Ok(y.with_conv2d_backward(&input, weight, bias, s))
    }

    /// Convolution of the output of a batch norm that is not computed yet, if a kernel applies it to its input.
    fn conv2d_normalized(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        s: &ConvShape,
    ) -> Result<Option<Tensor>> {
        let Some(norm) = self.normalization::<f32>() else { return Ok(None) };
        if !cpu::conv2d::forward_supports(s, norm.activation) {
            return Ok(None);
        }
        let (x, w) = (norm.x.read::<f32>()?, weight.read::<f32>()?);
        let b = bias.map(|b| b.read::<f32>()).transpose()?;
        Tensor::build([s.n, s.out_h(), s.out_w(), s.c_out], |y: &mut [f32]| {
            cpu::conv2d::forward_normalized(s, norm.conv_input(&x), &w, b.as_deref(), y)
        })
        .map(Some)
    }

    /// On the CPU, where kernels read and write f16 and bf16.
    fn conv2d_half<T: Stored<Compute = f32>>(
        &self,
        weight: &Tensor,
        bias: Option<&Tensor>,
        s: ConvShape,
    ) -> Result<Tensor> {
        let input = self.recomputable();
        let norm = self.normalization::<T>().filter(|_| half::supports_prologue::<T>(&s));
        let y = {
            let x = norm.as_ref().map_or(self, |norm| &norm.x).read::<T>()?;
            let w = weight.read::<T>()?;
            let b = bias.map(|b| b.read::<T>()).transpose()?;
            let x = norm.as_ref().map_or_else(|| ConvInput::plain(&x), |norm| norm.conv_input(&x));
            Tensor::build([s.n, s.out_h(), s.out_w(), s.c_out], |y: &mut [T]| {
                half::forward(&s, x, &w, b.as_deref(), y)
            })?
        };
        Ok(y.with_conv2d_backward(&input, weight, bias, s))
    }

    /// [`Tensor::conv2d`] without a bias and, on a GPU where cuDNN computes them in the same kernel, the sum and the sum of squares of
    /// each output channel: `[2, out]`, in f32.
    pub(super) fn conv2d_with_sums(
        &self,
        weight: &Tensor,
        options: &Conv2dOptions,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let operands = [("x", self), ("weight", weight)];
        super::same_dtype("conv2d", &operands)?;
        let s = conv_shape(&operands, options)?;
        let Some(on) = OnGpu::of("conv2d", &operands)? else {
            return Ok((self.conv2d(weight, None, options)?, None));
        };
        let sums = on.empty([2, s.c_out], DType::F32)?;
        let y = on.empty([s.n, s.out_h(), s.out_w(), s.c_out], self.dtype())?;
        let has_sums = {
            let views = [self, weight, &y, &sums].map(Tensor::device_view);
            let [x, w, of_y, of_sums] = views.each_ref().map(|t| t.slice());
            on.with_op_context(cuda::conv2d::forward_with_sums(&on.gpu, &s, x, w, of_y, of_sums))?
        };
        match has_sums {
            true => Ok((y.with_conv2d_backward(self, weight, None, s), Some(sums))),
            false => Ok((self.conv2d_gpu(&on, weight, None, s)?, None)),
        }
    }

    fn conv2d_gpu(&self, on: &OnGpu, weight: &Tensor, bias: Option<&Tensor>, s: ConvShape) -> Result<Tensor> {
        let y = on.build([s.n, s.out_h(), s.out_w(), s.c_out], self.dtype(), |y| {
            let (x, w) = (self.device_view(), weight.device_view());
            cuda::conv2d::forward(&on.gpu, &s, x.slice(), w.slice(), y)?;
            match bias {
                Some(bias) => cuda::binary::add_to_rows(&on.gpu, y, bias.device_view().slice()),
                None => Ok(()),
            }
        })?;
        Ok(y.with_conv2d_backward(self, weight, bias, s))
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
