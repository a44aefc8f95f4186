//! Sums and means over axes.
use super::gpu::OnGpu;
use crate::{DType, Error, Result, Shape, Tensor, cpu, cuda};

impl Tensor {
    /// The sum over the given axes; with `keep` they stay as extents of 1. f32, f64; sums are merged in f64.
    pub fn sum(&self, axes: &[usize], keep: bool) -> Result<Tensor> {
        let kept = self.reduced_shape("sum", axes)?;
        if let Some(on) = OnGpu::of("sum", &[("x", self)])? {
            return self.sum_gpu(&on, "sum", axes, keep, 1.0);
        }
        if self.is_half_on_cpu() {
            return self.widened()?.sum(axes, keep)?.rounded_as(self);
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
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.reshape(kept)?.expand(from)?)])
        });
        if keep { Ok(y) } else { y.reshape(without_axes(&from, axes)) }
    }

    /// The mean over the given axes; with `keep` they stay as extents of 1.
    pub fn mean(&self, axes: &[usize], keep: bool) -> Result<Tensor> {
        self.reduced_shape("mean", axes)?;
        let count: usize = axes.iter().map(|a| self.dims()[*a]).product();
        if let Some(on) = OnGpu::of("mean", &[("x", self)])? {
            // In one pass: the sum itself may be too large for a 16-bit dtype.
            return self.sum_gpu(&on, "mean", axes, keep, 1.0 / count as f64);
        }
        let mean = self.widened()?.sum(axes, keep)?.mul_scalar(1.0 / count as f64)?;
        mean.rounded_as(self)
    }

    /// The sum of all elements: a scalar.
    pub fn sum_all(&self) -> Result<Tensor> {
        self.sum(&(0..self.rank()).collect::<Vec<_>>(), false)
    }

    /// The mean of all elements: a scalar.
    pub fn mean_all(&self) -> Result<Tensor> {
        self.mean(&(0..self.rank()).collect::<Vec<_>>(), false)
    }

    /// The sum times a factor; between passes it stays in f32.
    fn sum_gpu(
        &self,
        on: &OnGpu,
        op: &'static str,
        axes: &[usize],
        keep: bool,
        factor: f64,
    ) -> Result<Tensor> {
        let (from, kept) = (*self.shape(), self.reduced_shape(op, axes)?);
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
                Ok(vec![Some(grad.reshape(kept)?.expand(from)?)])
            }
        });
        if keep { Ok(y) } else { y.reshape(without_axes(&from, axes)) }
    }

    /// This shape with the given axes reduced to 1; an error when one does not exist or stands twice.
    pub(crate) fn reduced_shape(&self, op: &'static str, axes: &[usize]) -> Result<Shape> {
        let bad = axes.iter().enumerate().any(|(i, a)| *a >= self.rank() || axes[..i].contains(a));
        if bad {
            return Err(Error::shape(
                op,
                &[("x", self)],
                format!("axes {axes:?} must exist and be distinct"),
            ));
        }
        Ok(axes.iter().fold(*self.shape(), |s, a| s.with(*a, 1)))
    }
}

/// The passes of a sum: innermost axes first, and runs of neighbouring axes in one. For each the shape that it leaves, and the extents
/// before, of and behind what it sums over.
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
        dims = (first..=last).fold(dims, |s, axis| s.with(axis, 1));
        passes.push((dims, extents));
    }
    passes
}

/// A shape without some of its axes.
pub(crate) fn without_axes(shape: &Shape, axes: &[usize]) -> Shape {
    let dims: Vec<usize> =
        shape.dims().iter().enumerate().filter(|(a, _)| !axes.contains(a)).map(|(_, d)| *d).collect();
    Shape::new(&dims)
}
