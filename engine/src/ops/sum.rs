//! Sums and means over axes.
use crate::cpu;
use crate::{Error, Result, Shape, Tensor};

impl Tensor {
    /// The sum over the given axes; with `keep` they stay as extents of 1. f32, f64; sums are merged in f64.
    pub fn sum(&self, axes: &[usize], keep: bool) -> Result<Tensor> {
        let kept = self.reduced_shape("sum", axes)?;
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        let y = dispatch_real!("sum", [("x", self)], T => {
            let mut current = self.detach();
            // Innermost first; runs of neighbouring axes go in one pass.
            while let Some(last) = sorted.pop() {
                let mut first = last;
                while sorted.last().is_some_and(|a| a + 1 == first) {
                    first = sorted.pop().expect("just seen");
                }
                let dims = *current.shape();
                let (outer, n, inner) = (dims[..first].iter().product(), dims[first..=last].iter().product(), dims[last + 1..].iter().product());
                let shape = (first..=last).fold(dims, |s, a| s.with(a, 1));
                let x = current.read::<T>()?;
                let next = Tensor::build(shape, |y: &mut [T]| cpu::reduce::sum(&x, outer, n, inner, y))?;
                drop(x);
                current = next;
            }
            Ok(current)
        })?;
        let from = *self.shape();
        let y = y.recorded("sum", &[self], || {
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.reshape(kept)?.expand(from)?)])
        });
        if keep { Ok(y) } else { y.reshape(removed(&from, axes)) }
    }

    /// The mean over the given axes; with `keep` they stay as extents of 1.
    pub fn mean(&self, axes: &[usize], keep: bool) -> Result<Tensor> {
        self.reduced_shape("mean", axes)?;
        let count: usize = axes.iter().map(|a| self.dims()[*a]).product();
        self.sum(axes, keep)?.scale(1.0 / count as f64)
    }

    /// The sum of all elements: a scalar.
    pub fn sum_all(&self) -> Result<Tensor> {
        self.sum(&(0..self.rank()).collect::<Vec<_>>(), false)
    }

    /// The mean of all elements: a scalar.
    pub fn mean_all(&self) -> Result<Tensor> {
        self.mean(&(0..self.rank()).collect::<Vec<_>>(), false)
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

/// A shape without some of its axes.
pub(crate) fn removed(shape: &Shape, axes: &[usize]) -> Shape {
    let dims: Vec<usize> =
        shape.dims().iter().enumerate().filter(|(a, _)| !axes.contains(a)).map(|(_, d)| *d).collect();
    Shape::new(&dims)
}
