//! Elementwise operations of one tensor; activations are in `activation.rs`. f32, f16, bf16; f64 on the CPU.
use super::cpu::unary::{self, UnaryFn};
use super::cuda::unary as on_cuda;
use crate::autograd::{Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Formula, Infos, Op, Spec, TensorInfo, compute, for_real, with_derivative};
use crate::{Element, Result, Tensor};
use std::marker::PhantomData;
use std::sync::Arc;

impl Tensor {
    /// `x * factor`, with the factor rounded to the dtype. f32, f16, bf16; f64 on the CPU.
    pub fn mul_scalar(&self, factor: f64) -> Result<Tensor> {
        let op = UnaryOp::<unary::MulScalar>::new("mul_scalar", factor, 0.0);
        self.unary(op, nothing, move |_, dy| dy.mul_scalar(factor))
    }

    /// `factor * x + offset`. f32, f16, bf16; f64 on the CPU.
    pub fn affine(&self, factor: f64, offset: f64) -> Result<Tensor> {
        let op = UnaryOp::<unary::Affine>::new("affine", factor, offset);
        self.unary(op, nothing, move |_, dy| dy.mul_scalar(factor))
    }

    /// `-x`. f32, f16, bf16; f64 on the CPU.
    pub fn neg(&self) -> Result<Tensor> {
        self.mul_scalar(-1.0)
    }

    /// `|x|`; the gradient at 0 is 0. f32, f16, bf16; f64 on the CPU.
    pub fn abs(&self) -> Result<Tensor> {
        self.unary(UnaryOp::<unary::Abs>::new("abs", 0.0, 0.0), operand, |saved, dy| {
            let sign = UnaryOp::<unary::Sign>::new("abs", 0.0, 0.0);
            dy.mul(&compute(&sign, &[saved.operand(0)])?)
        })
    }

    /// Square root. f32, f16, bf16; f64 on the CPU.
    pub fn sqrt(&self) -> Result<Tensor> {
        let op = UnaryOp::<unary::Sqrt>::new("sqrt", 0.0, 0.0);
        self.unary(op, |_| Saves::results(&[0]), |saved, dy| dy.div(saved.result(0))?.mul_scalar(0.5))
    }

    /// Natural logarithm. f32, f16, bf16; f64 on the CPU.
    pub fn log(&self) -> Result<Tensor> {
        let op = UnaryOp::<unary::Ln>::new("log", 0.0, 0.0);
        self.unary(op, operand, |saved, dy| dy.div(saved.operand(0)))
    }

    /// `x * x`. f32, f16, bf16; f64 on the CPU.
    pub fn square(&self) -> Result<Tensor> {
        let op = UnaryOp::<unary::Square>::new("square", 0.0, 0.0);
        self.unary(op, operand, |saved, dy| dy.mul(saved.operand(0))?.mul_scalar(2.0))
    }

    /// `x` to a constant power. f32, f16, bf16; f64 on the CPU.
    pub fn powf(&self, exponent: f64) -> Result<Tensor> {
        let op = UnaryOp::<unary::PowScalar>::new("powf", exponent, 0.0);
        self.unary(op, operand, move |saved, dy| {
            dy.mul(&saved.operand(0).powf(exponent - 1.0)?)?.mul_scalar(exponent)
        })
    }

    /// `x` clamped to `low..=high`; the gradient passes inside and at the bounds, as in PyTorch. f32, f16, bf16; f64 on the CPU.
    pub fn clamp(&self, low: f64, high: f64) -> Result<Tensor> {
        self.unary(UnaryOp::<unary::Clamp>::new("clamp", low, high), operand, move |saved, dy| {
            let within = UnaryOp::<unary::Within>::new("clamp", low, high);
            dy.mul(&compute(&within, &[saved.operand(0)])?)
        })
    }

    /// 1 where `x > threshold`, else 0, in the dtype of x; it has no gradient. f32, f16, bf16; f64 on the CPU.
    pub fn greater(&self, threshold: f64) -> Result<Tensor> {
        compute(&UnaryOp::<unary::Greater>::new("greater", threshold, 0.0), &[self])
    }

    /// The function of this tensor, and its gradient as a formula of the tensors of `saves` and the gradient of the result.
    fn unary<F: UnaryFn>(
        &self,
        op: UnaryOp<F>,
        saves: fn(&[bool]) -> Saves,
        gradient: impl Fn(&Saved, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Result<Tensor> {
        let derivative = Formula::new(saves, move |saved, dy, _| Ok(vec![Some(gradient(saved, dy)?)]));
        Ok(with_derivative(op.name, &[self], compute(&op, &[self])?, derivative))
    }
}

fn nothing(_: &[bool]) -> Saves {
    Saves::default()
}

fn operand(_: &[bool]) -> Saves {
    Saves::operands(&[0])
}

/// A function of each element with two parameters.
struct UnaryOp<F> {
    name: &'static str,
    p: f64,
    q: f64,
    function: PhantomData<F>,
}

impl<F> UnaryOp<F> {
    fn new(name: &'static str, p: f64, q: f64) -> UnaryOp<F> {
        UnaryOp { name, p, q, function: PhantomData }
    }
}

impl<F: UnaryFn> Op for UnaryOp<F> {
    fn spec(&self) -> Spec {
        Spec::new(self.name, &["x"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => {
            let [p, q] = [self.p, self.q].map(<T as Element>::from_f64);
            unary::forward::<T, F>(&call.x(0)?, p, q, &mut call.y(0)?);
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        on_cuda::forward(gpu, F::KERNEL, x[0], self.p, self.q, y[0])
    }
}
