//! Permutation of axes, and conversion between channels-last and NCHW.
use super::cpu;
use crate::autograd::{Derivative, Gradients, Saved};
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_any};
use crate::{Axes, Error, Result, Shape, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Axis `a` of the result is axis `axes[a]` of this tensor; a dense copy. Any dtype.
    pub fn permute(&self, axes: impl Axes) -> Result<Tensor> {
        let axes = axes.indices("permute", self)?;
        if axes.len() != self.rank() {
            let why = format!("needs each of the {} axes once, not {}", self.rank(), axes.len());
            return Err(Error::shape("permute", &[("x", self)], why));
        }
        apply(Permute { from: *self.shape(), axes }, &[self])
    }

    /// Swaps the last two axes; a dense copy. Any dtype.
    pub fn transpose(&self) -> Result<Tensor> {
        let rank = self.rank();
        if rank < 2 {
            return Err(Error::shape("transpose", &[("self", self)], "needs at least two axes"));
        }
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank - 2, rank - 1);
        self.permute(&axes)
    }

    /// Converts `[N, C, H, W]` (or a weight `[out, in, kh, kw]`) to channels-last. Any dtype.
    pub fn from_nchw(nchw: &Tensor) -> Result<Tensor> {
        nchw.check_images("from_nchw")?;
        nchw.permute(&[0, 2, 3, 1])
    }

    /// Converts channels-last to `[N, C, H, W]` (or a weight to `[out, in, kh, kw]`). Any dtype.
    pub fn to_nchw(&self) -> Result<Tensor> {
        self.check_images("to_nchw")?;
        self.permute(&[0, 3, 1, 2])
    }

    fn check_images(&self, op: &'static str) -> Result<()> {
        if self.rank() == 4 {
            return Ok(());
        }
        Err(Error::shape(op, &[("self", self)], "needs four axes"))
    }
}

/// A permuted copy.
struct Permute {
    from: Shape,
    axes: Vec<usize>,
}

impl Op for Permute {
    fn spec(&self) -> Spec {
        Spec::new("permute", &["self"]).any_dtype()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let dims: Vec<usize> = self.axes.iter().map(|a| self.from[*a]).collect();
        Ok(vec![TensorInfo::new(dims, x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_any!(call, T => cpu::permute::permute::<T>(&call.x(0)?, &self.from, &self.axes, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> cuda::Result<()> {
        cuda::memory::copy::permute(gpu, x[0], &self.from, &self.axes, y[0])
    }
}

impl Derivative for Permute {
    fn backward(&self, _: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        let mut inverse = vec![0; self.axes.len()];
        self.axes.iter().enumerate().for_each(|(to, from)| inverse[*from] = to);
        Ok(vec![Some(dy.permute(&inverse)?)])
    }
}
