//! Product and cumulative sum along an axis.
use super::{Lines, cpu, cuda};
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, composed_backward, for_real};
use crate::{Axis, Result, Shape, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Product along an axis; its gradient is exact where elements are zero. f32, f16, bf16; f64 on the CPU.
    pub fn prod(&self, axis: impl Axis) -> Result<Tensor> {
        let axis = self.axis("prod", axis)?;
        apply(Prod { from: *self.shape(), axis }, &[self])
    }

    /// Cumulative sum along an axis: `y[j] = x[0] + … + x[j]`. f32, f16, bf16; f64 on the CPU.
    pub fn cumsum(&self, axis: impl Axis) -> Result<Tensor> {
        let axis = self.axis("cumsum", axis)?;
        apply(CumSum { lines: Lines::new(self.shape(), axis), reverse: false }, &[self])
    }
}

/// Product of each line.
#[derive(Clone, Copy)]
struct Prod {
    from: Shape,
    axis: usize,
}

impl Op for Prod {
    fn spec(&self) -> Spec {
        Spec::new("prod", &["x"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::new(self.from.without(self.axis), x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let lines = Lines::new(&self.from, self.axis);
        for_real!(call, T => cpu::lines::prod::<T>(lines, &call.x(0)?, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::lines::prod(gpu, Lines::new(&self.from, self.axis), x[0], y[0])
    }
}

impl Derivative for Prod {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(apply(ProdGrad(*self), &[saved.operand(0), &dy])?)])
    }
}

/// Gradient of [`Prod`]: dy times the product of the line's other elements.
struct ProdGrad(Prod);

impl Op for ProdGrad {
    fn spec(&self) -> Spec {
        Spec::new("prod", &["x", "grad"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let lines = Lines::new(&self.0.from, self.0.axis);
        for_real!(call, T => cpu::lines::prod_backward::<T>(lines, &call.x(0)?, &call.x(1)?, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::lines::prod_backward(gpu, Lines::new(&self.0.from, self.0.axis), x[0], x[1], y[0])
    }
}

impl Derivative for ProdGrad {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0, 1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        let Prod { from, axis } = self.0;
        let Lines { outer, n, inner } = Lines::new(&from, axis);
        composed_backward(saved, &dy, needs, |operands| {
            // For each element a copy of its line, in which the element is replaced by 1.
            let lines = operands[0].reshape([outer, 1, n, inner])?.expand([outer, n, n, inner])?;
            let diagonal = identity(n, &lines)?.reshape([1, n, n, 1])?;
            let others = lines.mul(&diagonal.affine(-1.0, 1.0)?)?.add(&diagonal)?.prod(2)?;
            others.mul(&operands[1].reshape([outer, 1, inner])?)?.reshape(from)
        })
    }
}

/// The identity matrix of n rows, in the dtype and on the device of `like`.
pub(in crate::ops) fn identity(n: usize, like: &Tensor) -> Result<Tensor> {
    // A row of n + 1 elements moves the 1 of the next row by one column.
    let ones = Tensor::ones([n, 1], like.dtype(), &like.device())?;
    ones.pad(&[(0, 0), (0, n)], 0.0)?.reshape([n * (n + 1)])?.narrow(0, 0, n * n)?.reshape([n, n])
}

/// Cumulative sum of each line, from the last element to the first if `reverse`.
#[derive(Clone, Copy)]
struct CumSum {
    lines: Lines,
    reverse: bool,
}

impl Op for CumSum {
    fn spec(&self) -> Spec {
        Spec::new("cumsum", &["x"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::of(x[0])])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_real!(call, T => cpu::lines::cumsum::<T>(self.lines, &call.x(0)?, self.reverse, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::lines::cumsum(gpu, self.lines, x[0], self.reverse, y[0])
    }
}

impl Derivative for CumSum {
    fn backward(&self, _: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(apply(CumSum { reverse: !self.reverse, ..*self }, &[&dy])?)])
    }
}
