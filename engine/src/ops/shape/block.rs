//! Blocks of a tensor: slicing along an axis, and padding.
use super::cpu::copy_block::copy_block;
use crate::autograd::{Derivative, Gradients, Saved};
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_any, with_derivative};
use crate::{Error, Result, Shape, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Elements `start .. start + len` of an axis: a view for axis 0, a copy for others. Any dtype.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Tensor> {
        self.check_axis("narrow", axis)?;
        if start.checked_add(len).is_none_or(|end| end > self.dims()[axis]) {
            return Err(Error::shape(
                "narrow",
                &[("x", self)],
                format!("{len} elements from {start} are out of range for axis {axis}"),
            ));
        }
        let mut block = Block { whole: *self.shape(), at: vec![0; self.rank()], shape: self.shape().with(axis, len)? };
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
        cuda::copy::copy_block(gpu, (x[0], whole, at), (y[0], shape, &self.start()), shape)
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
        cuda::copy::fill(gpu, y[0], self.value)?;
        cuda::copy::copy_block(gpu, (x[0], shape, &self.block.start()), (y[0], whole, at), shape)
    }
}

impl Derivative for Pad {
    fn backward(&self, _: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(apply(self.block.clone(), &[&dy])?)])
    }
}
