//! Elementwise operations of two tensors, with broadcasting. Both operands have the same dtype: f32, f16, bf16, or f64 on the CPU.
use super::cpu::add::add_assign;
use super::cpu::binary::{self as on_cpu, BinaryFn, BroadcastLayout};
use super::cuda::binary as on_cuda;
use crate::autograd::{Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{
    CpuCall, Formula, Infos, Op, Spec, TensorInfo, compute, for_real, launch, match_float, with_derivative,
};
use crate::ops::shape::broadcast_steps;
use crate::{Device, Error, Result, Shape, Tensor};
use std::marker::PhantomData;
use std::sync::Arc;

impl Tensor {
    /// `self + other`, broadcasting by NumPy's rule. f32, f16, bf16; f64 on the CPU.
    pub fn add(&self, other: &Tensor) -> Result<Tensor> {
        self.binary::<on_cpu::Add>("add", other, nothing, |saved, dy, needs| {
            both(needs, || dy.sum_to(saved.shape(0)), || dy.sum_to(saved.shape(1)))
        })
    }

    /// `self - other`, broadcasting. f32, f16, bf16; f64 on the CPU.
    pub fn sub(&self, other: &Tensor) -> Result<Tensor> {
        self.binary::<on_cpu::Sub>("sub", other, nothing, |saved, dy, needs| {
            both(needs, || dy.sum_to(saved.shape(0)), || dy.sum_to(saved.shape(1))?.neg())
        })
    }

    /// `self * other`, broadcasting. f32, f16, bf16; f64 on the CPU.
    pub fn mul(&self, other: &Tensor) -> Result<Tensor> {
        self.binary::<on_cpu::Mul>("mul", other, factors, |saved, dy, needs| {
            let of = |i: usize| dy.mul(saved.operand(1 - i))?.sum_to(saved.shape(i));
            both(needs, || of(0), || of(1))
        })
    }

    /// `self / other`, broadcasting. f32, f16, bf16; f64 on the CPU.
    pub fn div(&self, other: &Tensor) -> Result<Tensor> {
        let saves = |needs: &[bool]| Saves::operands(&[1]).and_operand_if(needs[1], 0);
        self.binary::<on_cpu::Div>("div", other, saves, |saved, dy, needs| {
            let b = saved.operand(1);
            let over_b = dy.div(b)?;
            both(
                needs,
                || over_b.sum_to(saved.shape(0)),
                || over_b.mul(saved.operand(0))?.div(b)?.sum_to(saved.shape(1))?.neg(),
            )
        })
    }

    /// Elementwise maximum, broadcasting; a tie gives half of the gradient to each, as in PyTorch. f32, f16, bf16; f64 on the CPU.
    pub fn maximum(&self, other: &Tensor) -> Result<Tensor> {
        self.extremum::<on_cpu::Maximum>("maximum", other, false)
    }

    /// Elementwise minimum, broadcasting; a tie gives half of the gradient to each, as in PyTorch. f32, f16, bf16; f64 on the CPU.
    pub fn minimum(&self, other: &Tensor) -> Result<Tensor> {
        self.extremum::<on_cpu::Minimum>("minimum", other, true)
    }

    /// `self` to the power `other`, broadcasting; where the exponent needs a gradient the base must be positive. f32, f16, bf16; f64 on
    /// the CPU.
    pub fn pow(&self, other: &Tensor) -> Result<Tensor> {
        let saves = |_: &[bool]| Saves::operands(&[0, 1]).and_results(&[0]);
        self.binary::<on_cpu::Pow>("pow", other, saves, |saved, dy, needs| {
            let (a, b) = (saved.operand(0), saved.operand(1));
            both(
                needs,
                || dy.mul(b)?.mul(&a.pow(&b.affine(1.0, -1.0)?)?)?.sum_to(a.shape()),
                || dy.mul(saved.result(0))?.mul(&a.log()?)?.sum_to(b.shape()),
            )
        })
    }

    /// 1 where the elements are equal, else 0, in the operands' dtype, broadcasting (PyTorch's `eq`). It has no gradient. f32, f16, bf16;
    /// f64 on the CPU.
    pub fn equal(&self, other: &Tensor) -> Result<Tensor> {
        compute(&BinaryOp::<on_cpu::Equal>::new("equal", self, other)?, &[self, other])
    }

    /// `self` where `mask` is not 0, else 0 (even where `self` is NaN), broadcasting. The mask has the dtype of `self`: f32, f16, bf16; f64
    /// on the CPU.
    pub fn masked(&self, mask: &Tensor) -> Result<Tensor> {
        let saves = |_: &[bool]| Saves::operands(&[1]);
        self.binary::<on_cpu::Masked>("masked", &mask.detach(), saves, |saved, dy, _| {
            Ok(vec![Some(dy.masked(saved.operand(1))?.sum_to(saved.shape(0))?), None])
        })
    }

    /// `self += other` in place for equal shapes and dtypes; not tracked.
    pub(crate) fn add_in_place(&self, other: &Tensor) -> Result<()> {
        let operands = [("self", self), ("other", other)];
        if self.shape() != other.shape() || self.dtype() != other.dtype() {
            return Err(Error::shape("add", &operands, "shapes and dtypes must be equal"));
        }
        if !self.dtype().is_float() {
            return Err(Error::dtype("add", &operands, "f32, f16, bf16 or f64"));
        }
        if self.device() != Device::Cpu {
            return launch("add", &operands, |gpu, of| on_cuda::same_shape(gpu, "add", of[0], of[1], of[0]));
        }
        match_float!(self.dtype(), T => add_assign::<T>(&mut self.write()?, &other.read()?));
        Ok(())
    }

    fn extremum<F: BinaryFn>(&self, name: &'static str, other: &Tensor, smaller: bool) -> Result<Tensor> {
        let saves = |_: &[bool]| Saves::operands(&[0, 1]);
        self.binary::<F>(name, other, saves, move |saved, dy, needs| {
            let of = |i: usize| {
                let (x, y) = (saved.operand(i).detach(), saved.operand(1 - i).detach());
                let (hi, lo) = if smaller { (&y, &x) } else { (&x, &y) };
                let chosen = compute(&BinaryOp::<on_cpu::Heaviside>::new(name, hi, lo)?, &[hi, lo])?;
                dy.mul(&chosen)?.sum_to(saved.shape(i))
            };
            both(needs, || of(0), || of(1))
        })
    }

    /// The function of both tensors, and its gradients as a formula of the tensors of `saves` and the gradient of the result.
    fn binary<F: BinaryFn>(
        &self,
        name: &'static str,
        other: &Tensor,
        saves: fn(&[bool]) -> Saves,
        gradients: impl Fn(&Saved, &Tensor, &[bool]) -> Result<Gradients> + Send + Sync + 'static,
    ) -> Result<Tensor> {
        let y = compute(&BinaryOp::<F>::new(name, self, other)?, &[self, other])?;
        Ok(with_derivative(name, &[self, other], y, Formula::new(saves, gradients)))
    }
}

fn nothing(_: &[bool]) -> Saves {
    Saves::default()
}

/// Each factor, if the other one needs a gradient.
fn factors(needs: &[bool]) -> Saves {
    Saves::default().and_operand_if(needs[1], 0).and_operand_if(needs[0], 1)
}

/// The gradients of two operands, where needed.
fn both(
    needs: &[bool],
    of_a: impl FnOnce() -> Result<Tensor>,
    of_b: impl FnOnce() -> Result<Tensor>,
) -> Result<Gradients> {
    Ok(vec![needs[0].then(of_a).transpose()?, needs[1].then(of_b).transpose()?])
}

/// A function of each pair of elements, broadcast to a shape.
struct BinaryOp<F> {
    name: &'static str,
    shape: Shape,
    a_steps: Vec<usize>,
    b_steps: Vec<usize>,
    function: PhantomData<F>,
}

impl<F> BinaryOp<F> {
    fn new(name: &'static str, a: &Tensor, b: &Tensor) -> Result<BinaryOp<F>> {
        let Some(shape) = a.shape().broadcast(b.shape())? else {
            return Err(Error::shape(name, &[("self", a), ("other", b)], "the shapes do not broadcast"));
        };
        let steps = |t: &Tensor| broadcast_steps(t.shape(), &shape).to_vec();
        Ok(BinaryOp { name, shape, a_steps: steps(a), b_steps: steps(b), function: PhantomData })
    }
}

impl<F: BinaryFn> Op for BinaryOp<F> {
    fn spec(&self) -> Spec {
        Spec::new(self.name, &["self", "other"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0]).with_shape(self.shape)])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let layout = BroadcastLayout::new(&self.shape, &self.a_steps, &self.b_steps);
        for_real!(call, T => on_cpu::forward::<T, F>(&layout, &call.x(0)?, &call.x(1)?, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let (a, b) = ((x[0], &self.a_steps[..]), (x[1], &self.b_steps[..]));
        on_cuda::forward(gpu, F::KERNEL, &self.shape, a, b, y[0])
    }
}
