//! Elementwise operations of one tensor; activations are in `activation.rs`. f32, f16, bf16; f64 on the CPU.
use super::gpu::OnGpu;
use crate::cpu::unary::{self, UnaryFn};
use crate::{Element, Result, Tensor, cuda};

impl Tensor {
    /// `x * factor`, with the factor rounded to the dtype. f32, f16, bf16; f64 on the CPU.
    pub fn mul_scalar(&self, factor: f64) -> Result<Tensor> {
        Ok(self.unary::<unary::MulScalar>("mul_scalar", factor, 0.0)?.with_composed_backward(
            "mul_scalar",
            &[self],
            || move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.mul_scalar(factor)?)]),
        ))
    }

    /// `factor * x + offset`. f32, f16, bf16; f64 on the CPU.
    pub fn affine(&self, factor: f64, offset: f64) -> Result<Tensor> {
        Ok(self.unary::<unary::Affine>("affine", factor, offset)?.with_composed_backward(
            "affine",
            &[self],
            || move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.mul_scalar(factor)?)]),
        ))
    }

    /// `-x`. f32, f16, bf16; f64 on the CPU.
    pub fn neg(&self) -> Result<Tensor> {
        self.mul_scalar(-1.0)
    }

    /// `|x|`; the gradient at 0 is 0. f32, f16, bf16; f64 on the CPU.
    pub fn abs(&self) -> Result<Tensor> {
        Ok(self.unary::<unary::Abs>("abs", 0.0, 0.0)?.with_composed_backward("abs", &[self], || {
            let x = self.detach();
            move |grad: Tensor, _: &[bool]| {
                Ok(vec![Some(grad.mul(&x.unary::<unary::Sign>("abs", 0.0, 0.0)?)?)])
            }
        }))
    }

    /// Square root. f32, f16, bf16; f64 on the CPU.
    pub fn sqrt(&self) -> Result<Tensor> {
        let y = self.unary::<unary::Sqrt>("sqrt", 0.0, 0.0)?;
        Ok(y.with_output_backward("sqrt", &[self], |y: &Tensor, grad: Tensor, _: &[bool]| {
            Ok(vec![Some(grad.div(y)?.mul_scalar(0.5)?)])
        }))
    }

    /// Natural logarithm. f32, f16, bf16; f64 on the CPU.
    pub fn ln(&self) -> Result<Tensor> {
        Ok(self.unary::<unary::Ln>("ln", 0.0, 0.0)?.with_composed_backward("ln", &[self], || {
            let x = self.clone();
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.div(&x)?)])
        }))
    }

    /// `x * x`. f32, f16, bf16; f64 on the CPU.
    pub fn square(&self) -> Result<Tensor> {
        Ok(self.unary::<unary::Square>("square", 0.0, 0.0)?.with_composed_backward("square", &[self], || {
            let x = self.clone();
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.mul(&x)?.mul_scalar(2.0)?)])
        }))
    }

    /// `x` to a constant power. f32, f16, bf16; f64 on the CPU.
    pub fn powf(&self, exponent: f64) -> Result<Tensor> {
        Ok(self.unary::<unary::PowScalar>("powf", exponent, 0.0)?.with_composed_backward(
            "powf",
            &[self],
            || {
                let x = self.clone();
                move |grad: Tensor, _: &[bool]| {
                    Ok(vec![Some(grad.mul(&x.powf(exponent - 1.0)?)?.mul_scalar(exponent)?)])
                }
            },
        ))
    }

    /// `x` clamped to `low..=high`; the gradient passes inside and at the bounds, as in PyTorch. f32, f16, bf16; f64 on the CPU.
    pub fn clamp(&self, low: f64, high: f64) -> Result<Tensor> {
        Ok(self.unary::<unary::Clamp>("clamp", low, high)?.with_composed_backward("clamp", &[self], || {
            let x = self.detach();
            move |grad: Tensor, _: &[bool]| {
                Ok(vec![Some(grad.mul(&x.unary::<unary::Within>("clamp", low, high)?)?)])
            }
        }))
    }

    /// 1 where `x > threshold`, else 0, in the dtype of x; it has no gradient. f32, f16, bf16; f64 on the CPU.
    pub fn greater(&self, threshold: f64) -> Result<Tensor> {
        self.unary::<unary::Greater>("greater", threshold, 0.0)
    }

    fn unary<F: UnaryFn>(&self, op: &'static str, p: f64, q: f64) -> Result<Tensor> {
        if let Some(on) = OnGpu::of(op, &[("x", self)])? {
            return on.build(*self.shape(), self.dtype(), |y| {
                cuda::unary::forward(&on.gpu, F::KERNEL, self.device_view().slice(), p, q, y)
            });
        }
        if self.is_half_on_cpu() {
            return self.detach().widened()?.unary::<F>(op, p, q)?.rounded_as(self);
        }
        dispatch_real!(op, [("x", self)], T => {
            let x = self.read::<T>()?;
            let (p, q) = (<T as Element>::from_f64(p), <T as Element>::from_f64(q));
            Tensor::build(*self.shape(), |y: &mut [T]| unary::forward::<T, F>(&x, p, q, y))
        })
    }
}
