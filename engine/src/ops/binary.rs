//! Elementwise operations of two tensors, with broadcasting. Both operands have the same dtype: f32, f16, bf16, or f64 on the CPU.
use super::gpu::OnGpu;
use super::shape::broadcast_steps;
use crate::autograd::is_tracked;
use crate::cpu::binary::{self, BinaryFn, BroadcastLayout};
use crate::{Error, Result, Tensor, cuda};

impl Tensor {
    /// `self + other`, broadcasting by NumPy's rule. f32, f16, bf16; f64 on the CPU.
    pub fn add(&self, other: &Tensor) -> Result<Tensor> {
        let (a, b) = (*self.shape(), *other.shape());
        Ok(self.binary::<binary::Add>("add", other)?.with_composed_backward("add", &[self, other], || {
            move |grad: Tensor, needs: &[bool]| {
                let da = needs[0].then(|| grad.sum_to(a)).transpose()?;
                let db = needs[1].then(|| grad.sum_to(b)).transpose()?;
                Ok(vec![da, db])
            }
        }))
    }

    /// `self - other`, broadcasting. f32, f16, bf16; f64 on the CPU.
    pub fn sub(&self, other: &Tensor) -> Result<Tensor> {
        let (a, b) = (*self.shape(), *other.shape());
        Ok(self.binary::<binary::Sub>("sub", other)?.with_composed_backward("sub", &[self, other], || {
            move |grad: Tensor, needs: &[bool]| {
                let da = needs[0].then(|| grad.sum_to(a)).transpose()?;
                let db = needs[1].then(|| grad.sum_to(b)?.neg()).transpose()?;
                Ok(vec![da, db])
            }
        }))
    }

    /// `self * other`, broadcasting. f32, f16, bf16; f64 on the CPU.
    pub fn mul(&self, other: &Tensor) -> Result<Tensor> {
        Ok(self.binary::<binary::Mul>("mul", other)?.with_composed_backward("mul", &[self, other], || {
            let (a, b) = (self.clone(), other.clone());
            move |grad: Tensor, needs: &[bool]| {
                let da = needs[0].then(|| grad.mul(&b)?.sum_to(a.shape())).transpose()?;
                let db = needs[1].then(|| grad.mul(&a)?.sum_to(b.shape())).transpose()?;
                Ok(vec![da, db])
            }
        }))
    }

    /// `self / other`, broadcasting. f32, f16, bf16; f64 on the CPU.
    pub fn div(&self, other: &Tensor) -> Result<Tensor> {
        Ok(self.binary::<binary::Div>("div", other)?.with_composed_backward("div", &[self, other], || {
            let (a, b) = (self.clone(), other.clone());
            move |grad: Tensor, needs: &[bool]| {
                let over_b = grad.div(&b)?;
                let da = needs[0].then(|| over_b.sum_to(a.shape())).transpose()?;
                let db = needs[1].then(|| over_b.mul(&a)?.div(&b)?.sum_to(b.shape())?.neg()).transpose()?;
                Ok(vec![da, db])
            }
        }))
    }

    /// Elementwise maximum, broadcasting; a tie gives half of the gradient to each, as in PyTorch. f32, f16, bf16; f64 on the CPU.
    pub fn maximum(&self, other: &Tensor) -> Result<Tensor> {
        self.extremum::<binary::Maximum>("maximum", other, false)
    }

    /// Elementwise minimum, broadcasting; a tie gives half of the gradient to each, as in PyTorch. f32, f16, bf16; f64 on the CPU.
    pub fn minimum(&self, other: &Tensor) -> Result<Tensor> {
        self.extremum::<binary::Minimum>("minimum", other, true)
    }

    /// `self` to the power `other`, broadcasting; where the exponent needs a gradient the base must be positive. f32, f16, bf16; f64 on
    /// the CPU.
    pub fn pow(&self, other: &Tensor) -> Result<Tensor> {
        let y = self.binary::<binary::Pow>("pow", other)?;
        let power = y.clone();
        Ok(y.with_composed_backward("pow", &[self, other], || {
            let (a, b, y) = (self.clone(), other.clone(), power.clone());
            move |grad: Tensor, needs: &[bool]| {
                let da = needs[0]
                    .then(|| grad.mul(&b)?.mul(&a.pow(&b.affine(1.0, -1.0)?)?)?.sum_to(a.shape()))
                    .transpose()?;
                let db = needs[1].then(|| {
                    // The saved power is not in the graph.
                    let y = if is_tracked(&[&a, &b]) { &a.pow(&b)? } else { &y };
                    grad.mul(y)?.mul(&a.ln()?)?.sum_to(b.shape())
                });
                let db = db.transpose()?;
                Ok(vec![da, db])
            }
        })
        .with_saved(&[&power]))
    }

    /// 1 where the elements are equal, else 0, in the operands' dtype, broadcasting (PyTorch's `eq`). It has no gradient. f32, f16, bf16;
    /// f64 on the CPU.
    pub fn equal(&self, other: &Tensor) -> Result<Tensor> {
        self.binary::<binary::Equal>("equal", other)
    }

    /// `self` where `mask` is not 0, else 0 (even where `self` is NaN), broadcasting. The mask has the dtype of `self`: f32, f16, bf16; f64
    /// on the CPU.
    pub fn masked(&self, mask: &Tensor) -> Result<Tensor> {
        Ok(self
            .binary::<binary::Masked>("masked", mask)?
            .with_composed_backward("masked", &[self], || {
                let (shape, mask) = (*self.shape(), mask.detach());
                move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.masked(&mask)?.sum_to(shape)?)])
            })
            .with_saved(&[mask]))
    }

    /// `self += other` in place for equal shapes and dtypes; not tracked.
    pub(crate) fn add_in_place(&self, other: &Tensor) -> Result<()> {
        if self.shape() != other.shape() || self.dtype() != other.dtype() {
            return Err(Error::shape(
                "add",
                &[("self", self), ("other", other)],
                "shapes and dtypes must be equal",
            ));
        }
        if let Some(on) = OnGpu::of("add", &[("self", self), ("other", other)])? {
            let (a, b) = (self.device_view(), other.device_view());
            return on.with_op_context(cuda::binary::same_shape(
                &on.gpu,
                "add",
                a.slice(),
                b.slice(),
                a.slice(),
            ));
        }
        dispatch_stored!("add", [("self", self), ("other", other)], T => {
            crate::cpu::add::add_assign::<T>(&mut self.write()?, &other.read()?);
            Ok(())
        })
    }

    fn extremum<F: BinaryFn>(&self, op: &'static str, other: &Tensor, smaller: bool) -> Result<Tensor> {
        Ok(self.binary::<F>(op, other)?.with_composed_backward(op, &[self, other], || {
            let (a, b) = (self.detach(), other.detach());
            move |grad: Tensor, needs: &[bool]| {
                let gradient = |x: &Tensor, y: &Tensor| {
                    let (hi, lo) = if smaller { (y, x) } else { (x, y) };
                    grad.mul(&hi.binary::<binary::Heaviside>(op, lo)?)?.sum_to(x.shape())
                };
                let da = needs[0].then(|| gradient(&a, &b)).transpose()?;
                let db = needs[1].then(|| gradient(&b, &a)).transpose()?;
                Ok(vec![da, db])
            }
        }))
    }

    fn binary<F: BinaryFn>(&self, op: &'static str, other: &Tensor) -> Result<Tensor> {
        let operands = [("self", self), ("other", other)];
        super::same_dtype(op, &operands)?;
        let Some(shape) = self.shape().broadcast(other.shape())? else {
            return Err(Error::shape(op, &operands, "the shapes do not broadcast"));
        };
        let steps = |t: &Tensor| broadcast_steps(t.shape(), &shape);
        let (a_steps, b_steps) = (steps(self), steps(other));
        if let Some(on) = OnGpu::of(op, &operands)? {
            return on.build(shape, self.dtype(), |y| {
                let (a, b) = (self.device_view(), other.device_view());
                let (a, b) = ((a.slice(), &a_steps[..]), (b.slice(), &b_steps[..]));
                cuda::binary::forward(&on.gpu, F::KERNEL, &shape, a, b, y)
            });
        }
        if self.is_half_on_cpu() {
            let (a, b) = (self.detach().widened()?, other.detach().widened()?);
            return a.binary::<F>(op, &b)?.rounded_as(self);
        }
        let layout = BroadcastLayout::new(&shape, &a_steps, &b_steps);
        dispatch_real!(op, [("self", self), ("other", other)], T => {
            let (a, b) = (self.read::<T>()?, other.read::<T>()?);
            Tensor::build(shape, |y: &mut [T]| binary::forward::<T, F>(&layout, &a, &b, y))
        })
    }
}
