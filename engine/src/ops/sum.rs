//! Sums and means over axes.
use super::gpu::OnGpu;
use crate::{DType, Error, Result, Shape, Tensor, cpu, cuda};

impl Tensor {
    /// Sum over the given axes; with `keepdim` they stay with extent 1. f32, f16, bf16; f64 on the CPU, where partial sums are merged in f64.
    pub fn sum(&self, axes: &[usize], keepdim: bool) -> Result<Tensor> {
        let reduced = self.reduced_shape("sum", axes)?;
        if let Some(on) = OnGpu::of("sum", &[("x", self)])? {
            return self.sum_gpu(&on, "sum", axes, keepdim, 1.0);
        }
        if self.is_half_on_cpu() {
            return self.widened()?.sum(axes, keepdim)?.rounded_as(self);
        }
        let y = dispatch_real!("sum", [("x", self)], T => {
            let mut current = self.detach();
            for (shape, [outer, n, inner]) in passes(self.shape(), axes) {
                let x = current.read::<T>()?;
                let next = Tensor::build(shape, |y: &mut [T]| cpu::reduce::sum(&x, outer, n, inner, y))?;
                drop(x);
                current = next;
            }
            Ok(current)
        })?;
        let from = *self.shape();
        let y = y.with_composed_backward("sum", &[self], || {
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.reshape(reduced)?.expand(from)?)])
        });
        if keepdim { Ok(y) } else { y.reshape(without_axes(&from, axes)) }
    }

    /// Mean over the given axes; with `keepdim` they stay with extent 1. f32, f16, bf16; f64 on the CPU.
    pub fn mean(&self, axes: &[usize], keepdim: bool) -> Result<Tensor> {
        self.reduced_shape("mean", axes)?;
        let count: usize = axes.iter().map(|a| self.dims()[*a]).product();
        if let Some(on) = OnGpu::of("mean", &[("x", self)])? {
            // Scaled in the same pass: the sum itself may overflow f16.
            return self.sum_gpu(&on, "mean", axes, keepdim, 1.0 / count as f64);
        }
        let mean = self.widened()?.sum(axes, keepdim)?.mul_scalar(1.0 / count as f64)?;
        mean.rounded_as(self)
    }

    /// Sum of all elements, as a scalar.
    pub fn sum_all(&self) -> Result<Tensor> {
        self.sum(&(0..self.rank()).collect::<Vec<_>>(), false)
    }

    /// Mean of all elements, as a scalar.
    pub fn mean_all(&self) -> Result<Tensor> {
        self.mean(&(0..self.rank()).collect::<Vec<_>>(), false)
    }

    /// The sum times a factor; partial results between passes are f32.
    fn sum_gpu(
        &self,
        on: &OnGpu,
        op: &'static str,
        axes: &[usize],
        keepdim: bool,
        factor: f64,
    ) -> Result<Tensor> {
        let (from, reduced) = (*self.shape(), self.reduced_shape(op, axes)?);
        let mut y = self.detach();
        let mut passes = passes(&from, axes).into_iter().peekable();
        if passes.peek().is_none() && factor != 1.0 {
            return self.mul_scalar(factor);
        }
        while let Some((shape, extents)) = passes.next() {
            let is_last = passes.peek().is_none();
            let (dtype, factor) = if is_last { (self.dtype(), factor) } else { (DType::F32, 1.0) };
            y = on.build(shape, dtype, |out| {
                cuda::reduce::sum(&on.gpu, y.device_view().slice(), extents, factor, out)
            })?;
        }
        let y = y.with_composed_backward(op, &[self], || {
            move |grad: Tensor, _: &[bool]| {
                let grad = if factor == 1.0 { grad } else { grad.mul_scalar(factor)? };
                Ok(vec![Some(grad.reshape(reduced)?.expand(from)?)])
            }
        });
        if keepdim { Ok(y) } else { y.reshape(without_axes(&from, axes)) }
    }

    /// This shape with the given axes reduced to extent 1. Errors when an axis does not exist or is repeated.
    pub(crate) fn reduced_shape(&self, op: &'static str, axes: &[usize]) -> Result<Shape> {
        let bad = axes.iter().enumerate().any(|(i, a)| *a >= self.rank() || axes[..i].contains(a));
        if bad {
            return Err(Error::shape(
                op,
                &[("x", self)],
                format!("axes {axes:?} must exist and be distinct"),
            ));
        }
        Ok(axes.iter().fold(*self.shape(), |s, a| s.reduced(*a)))
    }
}

/// The passes of a sum: innermost axes first, neighbouring axes in one pass. Each has its output shape, and the extents before, of and
/// after the summed axes.
fn passes(shape: &Shape, axes: &[usize]) -> Vec<(Shape, [usize; 3])> {
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    let (mut dims, mut passes) = (*shape, vec![]);
    while let Some(last) = sorted.pop() {
        let mut first = last;
        while sorted.last().is_some_and(|axis| axis + 1 == first) {
            first = sorted.pop().expect("just seen");
        }
        let extent = |axes: &[usize]| axes.iter().product::<usize>();
        let extents = [extent(&dims[..first]), extent(&dims[first..=last]), extent(&dims[last + 1..])];
        dims = (first..=last).fold(dims, |s, axis| s.reduced(axis));
        passes.push((dims, extents));
    }
    passes
}

/// A shape without some of its axes.
pub(crate) fn without_axes(shape: &Shape, axes: &[usize]) -> Shape {
    let dims: Vec<usize> =
        shape.dims().iter().enumerate().filter(|(a, _)| !axes.contains(a)).map(|(_, d)| *d).collect();
    Shape::must_fit(&dims)
}
