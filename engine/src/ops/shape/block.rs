//! Blocks of a tensor: slicing along an axis, and padding.
use super::cpu::copy_block::copy_block;
use crate::autograd::{Derivative, Gradients, Saved};
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_any, with_derivative};
use crate::{Axis, Error, Result, Shape, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Elements `start .. start + len` of an axis: a view for axis 0, a copy for others. Any dtype.
    pub fn narrow(&self, axis: impl Axis, start: usize, len: usize) -> Result<Tensor> {
        let axis = self.axis("narrow", axis)?;
        if start.checked_add(len).is_none_or(|end| end > self.dims()[axis]) {
            return Err(Error::shape(
                "narrow",
                &[("x", self)],
                format!("{len} elements from {start} are out of range for axis {axis}"),
            ));
        }
        let mut block =
            Block { whole: *self.shape(), at: vec![0; self.rank()], shape: self.shape().with(axis, len)? };
        block.at[axis] = start;
        if axis > 0 {
            return apply(block, &[self]);
        }
        let row: usize = self.dims()[1..].iter().product();
        let y = self.view(start * row, block.shape);
        Ok(with_derivative("narrow", &[self], y, block))
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
        let at = pads.iter().map(|(before, _)| *before).collect();
        let block = Block { whole: Shape::new(&dims)?, at, shape: *self.shape() };
        apply(Pad { block, value }, &[self])
    }
}

/// The block of shape `shape` that starts at `at` in a tensor of shape `whole`.
#[derive(Clone)]
struct Block {
    whole: Shape,
    at: Vec<usize>,
    shape: Shape,
}

impl Block {
    /// Offset of the block in itself.
    fn start(&self) -> Vec<usize> {
        vec![0; self.at.len()]
    }
}

impl Op for Block {
    fn spec(&self) -> Spec {
        Spec::new("narrow", &["x"]).any_dtype()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0]).with_shape(self.shape)])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let Block { whole, at, shape } = self;
        for_any!(call, T => {
            copy_block::<T>(&call.x(0)?, whole, at, &mut call.y(0)?, shape, &self.start(), shape)
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> cuda::Result<()> {
        let Block { whole, at, shape } = self;
        cuda::memory::copy::copy_block(gpu, (x[0], whole, at), (y[0], shape, &self.start()), shape)
    }
}

impl Derivative for Block {
    fn backward(&self, _: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(apply(Pad { block: self.clone(), value: 0.0 }, &[&dy])?)])
    }
}

/// The inverse of [`Block`]: a tensor of a constant, except for the block.
struct Pad {
    block: Block,
    value: f64,
}

impl Op for Pad {
    fn spec(&self) -> Spec {
        Spec::new("pad", &["x"]).any_dtype()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0]).with_shape(self.block.whole)])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let Block { whole, at, shape } = &self.block;
        for_any!(call, T => {
            let mut y = call.y::<T>(0)?;
            y.fill(<T as crate::Element>::from_f64(self.value));
            copy_block::<T>(&call.x(0)?, shape, &self.block.start(), &mut y, whole, at, shape);
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> cuda::Result<()> {
        let Block { whole, at, shape } = &self.block;
        cuda::memory::copy::fill(gpu, y[0], self.value)?;
        cuda::memory::copy::copy_block(gpu, (x[0], shape, &self.block.start()), (y[0], whole, at), shape)
    }
}

impl Derivative for Pad {
    fn backward(&self, _: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(apply(self.block.clone(), &[&dy])?)])
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
