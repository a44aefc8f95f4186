//! Slicing, concatenating, padding and flipping along axes.
use super::gpu::OnGpu;
use crate::{Error, Result, Shape, Tensor, cpu, cuda};

impl Tensor {
    /// Elements `start .. start + len` of an axis: a view for axis 0, a copy for others. Any dtype.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Tensor> {
        self.check_axis("narrow", axis)?;
        let Some(end) = start.checked_add(len).filter(|end| *end <= self.dims()[axis]) else {
            return Err(Error::shape(
                "narrow",
                &[("x", self)],
                format!("{len} elements from {start} are out of range for axis {axis}"),
            ));
        };
        let shape = self.shape().with(axis, len)?;
        if axis > 0 {
            let mut from = vec![0; self.rank()];
            from[axis] = start;
            return self.window(&from, shape);
        }
        let row: usize = self.dims()[1..].iter().product();
        let y = self.view(start * row, shape);
        let end = self.dims()[0] - end;
        Ok(y.with_composed_backward("narrow", &[self], || {
            move |grad: Tensor, _: &[bool]| {
                let mut around = vec![(0, 0); grad.rank()];
                around[0] = (start, end);
                Ok(vec![Some(grad.pad(&around, 0.0)?)])
            }
        }))
    }

    /// Pads each axis `a` with `pads[a].0` elements of `value` before and `pads[a].1` after. Any dtype; f64 on the CPU only.
    pub fn pad(&self, pads: &[(usize, usize)], value: f64) -> Result<Tensor> {
        if pads.len() != self.rank() {
            return Err(Error::shape(
                "pad",
                &[("x", self)],
                format!("needs one pair for each of {} axes, not {}", self.rank(), pads.len()),
            ));
        }
        let padded =
            |(d, (before, after)): (&usize, &(usize, usize))| d.checked_add(*before)?.checked_add(*after);
        let dims: Option<Vec<usize>> = self.dims().iter().zip(pads).map(padded).collect();
        let Some(dims) = dims else {
            return Err(Error::shape("pad", &[("x", self)], format!("the padding {pads:?} is too large")));
        };
        let to: Vec<usize> = pads.iter().map(|(before, _)| *before).collect();
        let y = Tensor::full(dims, value, self.dtype(), &self.device())?;
        self.copy_into(&y, &to)?;
        Ok(y.with_composed_backward("pad", &[self], || {
            let shape = *self.shape();
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.window(&to, shape)?)])
        }))
    }

    /// Concatenates tensors of one dtype along an axis; their other extents must be equal. Any dtype.
    pub fn concat(tensors: &[&Tensor], axis: usize) -> Result<Tensor> {
        let Some(first) = tensors.first() else {
            let operands = crate::error::Operands(vec![]);
            return Err(Error::Shape { op: "concat", operands, why: "needs at least one tensor".into() });
        };
        first.check_axis("concat", axis)?;
        let named: Vec<(&'static str, &Tensor)> = tensors.iter().map(|t| ("x", *t)).collect();
        super::same_dtype("concat", &named)?;
        let others = |t: &Tensor| (t.dims()[..axis].to_vec(), t.dims()[axis + 1..].to_vec());
        if tensors.iter().any(|t| t.rank() != first.rank() || others(t) != others(first)) {
            return Err(Error::shape(
                "concat",
                &named,
                format!("extents must be equal except along axis {axis}"),
            ));
        }
        let extents: Vec<usize> = tensors.iter().map(|t| t.dims()[axis]).collect();
        let shape = first.shape().with(axis, extents.iter().sum())?;
        // The parts cover every element.
        let y = match OnGpu::of_any("concat", &named)? {
            Some(on) => on.empty(shape, first.dtype()),
            None => dispatch_any!(first.dtype(), T => Tensor::build(shape, |_: &mut [T]| ())),
        }?;
        let mut start = 0;
        for (t, n) in tensors.iter().zip(&extents) {
            let mut to = vec![0; shape.rank()];
            to[axis] = start;
            t.copy_into(&y, &to)?;
            start += n;
        }
        Ok(y.with_composed_backward("concat", tensors, || {
            move |grad: Tensor, needs: &[bool]| {
                let mut start = 0;
                let parts = extents.iter().zip(needs).map(|(n, needed)| {
                    start += n;
                    needed.then(|| grad.narrow(axis, start - n, *n)).transpose()
                });
                parts.collect()
            }
        }))
    }

    /// Reverses the order of elements along an axis. Any dtype.
    pub fn flip(&self, axis: usize) -> Result<Tensor> {
        self.check_axis("flip", axis)?;
        let y = match OnGpu::of_any("flip", &[("x", self)])? {
            Some(on) => on.build(*self.shape(), self.dtype(), |y| {
                cuda::copy::flip(&on.gpu, self.device_view().slice(), self.shape(), axis, y)
            }),
            None => self.flipped(axis),
        }?;
        Ok(y.with_composed_backward("flip", &[self], || {
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.flip(axis)?)])
        }))
    }

    /// [`Tensor::flip`] on the CPU.
    fn flipped(&self, axis: usize) -> Result<Tensor> {
        let (n, row) = (self.dims()[axis], self.dims()[axis + 1..].iter().product::<usize>());
        dispatch_any!(self.dtype(), T => {
            let x = self.read::<T>()?;
            Tensor::build(*self.shape(), |y: &mut [T]| {
                for (i, y) in y.chunks_exact_mut(row.max(1)).enumerate() {
                    let source = i / n * n + (n - 1 - i % n);
                    y.copy_from_slice(&x[source * row..][..row]);
                }
            })
        })
    }

    /// A copy of the block of shape `shape` that starts at `from`.
    fn window(&self, from: &[usize], shape: Shape) -> Result<Tensor> {
        Ok(self.block(from, shape)?.with_composed_backward("narrow", &[self], || {
            let ends = self.dims().iter().zip(shape.dims()).zip(from);
            let around: Vec<(usize, usize)> =
                ends.map(|((all, block), start)| (*start, all - start - block)).collect();
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.pad(&around, 0.0)?)])
        }))
    }

    fn block(&self, from: &[usize], shape: Shape) -> Result<Tensor> {
        let start = vec![0; from.len()];
        if let Some(on) = OnGpu::of_any("slice", &[("x", self)])? {
            return on.build(shape, self.dtype(), |y| {
                let x = self.device_view();
                cuda::copy::copy_block(&on.gpu, (x.slice(), self.shape(), from), (y, &shape, &start), &shape)
            });
        }
        dispatch_any!(self.dtype(), T => {
            let x = self.read::<T>()?;
            Tensor::build(shape, |y: &mut [T]| cpu::copy_block::copy_block(&x, self.shape(), from, y, &shape, &start, &shape))
        })
    }

    /// Writes this tensor into `y` at `to`.
    fn copy_into(&self, y: &Tensor, to: &[usize]) -> Result<()> {
        if let Some(on) = OnGpu::of_any("slice", &[("x", self), ("y", y)])? {
            let (x, into, start) = (self.device_view(), y.device_view(), vec![0; to.len()]);
            let (x, into) = ((x.slice(), self.shape(), &start[..]), (into.slice(), y.shape(), to));
            return on.with_op_context(cuda::copy::copy_block(&on.gpu, x, into, self.shape()));
        }
        dispatch_any!(self.dtype(), T => {
            let x = self.read::<T>()?;
            cpu::copy_block::copy_block(&x, self.shape(), &vec![0; to.len()], &mut y.write::<T>()?, y.shape(), to, self.shape());
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn ranges_and_paddings_that_wrap_are_rejected() {
        let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 2]).expect("memory");
        // A view that does not start at the first element: a wrapped start is inside of its storage.
        let view = x.narrow(0, 1, 2).expect("in range");
        for axis in [0, 1] {
            for (start, len) in [(usize::MAX, 1), (1, usize::MAX), (usize::MAX, usize::MAX), (3, 0)] {
                let error = view.narrow(axis, start, len).expect_err("out of range").to_string();
                assert!(error.contains("out of range"), "{error}");
            }
        }
        for pads in
            [[(usize::MAX, 0), (0, 0)], [(usize::MAX - 1, usize::MAX), (0, 0)], [(1 << 40, 0), (1 << 40, 0)]]
        {
            assert!(matches!(x.pad(&pads, 0.0), Err(Error::Shape { .. })), "{pads:?}");
        }
    }

    #[test]
    fn shapes_whose_product_wraps_are_rejected() {
        // The product of the extents is 1 modulo 2^64.
        let wrapping = [3, 12_297_829_382_473_034_411, 1, 1];
        assert!(matches!(Tensor::from_slice(&[1.0f32], wrapping), Err(Error::Shape { .. })));
        let x = Tensor::scalar(1.0f32).expect("memory");
        assert!(matches!(x.reshape(wrapping), Err(Error::Shape { .. })));
        assert!(matches!(x.expand(wrapping), Err(Error::Shape { .. })));
        assert!(matches!(Tensor::zeros([1; 7], DType::F32, &crate::Device::Cpu), Err(Error::Shape { .. })));
    }

    #[test]
    #[should_panic(expected = "exceeds Tensor(f32[2] on cpu)")]
    fn view_beyond_the_tensor_panics() {
        let x = Tensor::from_slice(&[1.0f32, 2.0], [2]).expect("memory");
        x.view(usize::MAX, Shape::must_fit(&[2]));
    }
}
