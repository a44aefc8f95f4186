//! Gathering by index along an axis, and one-hot encoding.
use super::{Lines, cpu, cuda};
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, compute, for_real};
use crate::{Axis, DType, Element, Error, Result, Shape, Tensor};
use std::sync::Arc;

impl Tensor {
    /// `y[.., j, ..] = x[.., index[.., j, ..], ..]` along an axis: `index` (i64) has the shape of `x` except along that axis. f32, f16, bf16;
    /// f64 on the CPU. An index out of range is an error: the indices are read back to the host.
    pub fn gather(&self, axis: impl Axis, index: &Tensor) -> Result<Tensor> {
        let operands = [("x", self), ("index", index)];
        let axis = self.axis("gather", axis)?;
        if index.dtype() != DType::I64 {
            return Err(Error::dtype("gather", &operands, "an index of i64"));
        }
        let k = index.dims().get(axis).copied().unwrap_or_default();
        if *index.shape() != self.shape().with(axis, k)? {
            return Err(Error::shape(
                "gather",
                &operands,
                format!("the index must have the shape of x except along axis {axis}"),
            ));
        }
        let n = self.dims()[axis];
        if let Some(bad) = index.read::<i64>()?.iter().find(|i| !(0..n as i64).contains(*i)) {
            return Err(Error::value("gather", &operands, format!("index {bad} is not in 0..{n}")));
        }
        self.gather_unchecked(axis, index)
    }

    /// [`Tensor::gather`] without checking the indices.
    pub(super) fn gather_unchecked(&self, axis: usize, index: &Tensor) -> Result<Tensor> {
        let gather = Gather { x: *self.shape(), index: *index.shape(), axis, scatters: false };
        apply(gather, &[self, index])
    }

    /// One-hot encoding of class indices (i64, any shape) along a new last axis of `classes` elements: `on` at the class, `off` elsewhere.
    /// Any dtype; f64 on the CPU only. The indices are read back to the host.
    pub fn one_hot(&self, classes: usize, on: f64, off: f64, dtype: DType) -> Result<Tensor> {
        let operands = [("index", self)];
        if self.dtype() != DType::I64 || self.rank() >= crate::MAX_RANK {
            return Err(Error::dtype(
                "one_hot",
                &operands,
                "class indices of i64 with less than MAX_RANK axes",
            ));
        }
        if let Some(bad) = self.read::<i64>()?.iter().find(|i| !(0..classes as i64).contains(*i)) {
            return Err(Error::value("one_hot", &operands, format!("class {bad} is not in 0..{classes}")));
        }
        // Kernels for a GPU exist in float dtypes.
        let float = if dtype.is_float() { dtype } else { DType::F32 };
        compute(&OneHot { classes, values: [on, off], dtype: float }, &[self])?.to_dtype(dtype)
    }
}

/// Elements of x at an index. Or the transpose, which `scatters`: adds each element at the index that it was gathered from, from zero.
#[derive(Clone, Copy)]
struct Gather {
    x: Shape,
    index: Shape,
    axis: usize,
    scatters: bool,
}

impl Op for Gather {
    fn spec(&self) -> Spec {
        Spec::new("gather", &["x", "index"]).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::new(if self.scatters { self.x } else { self.index }, x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let (lines, k) = (Lines::new(&self.x, self.axis), self.index[self.axis]);
        for_real!(call, T => match self.scatters {
            false => cpu::lines::gather::<T>(lines, &call.x(0)?, &call.x(1)?, k, &mut call.y(0)?),
            true => cpu::lines::scatter_add::<T>(lines, &call.x(0)?, &call.x(1)?, k, &mut call.y(0)?),
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let (lines, k) = (Lines::new(&self.x, self.axis), self.index[self.axis]);
        match self.scatters {
            false => cuda::lines::gather(gpu, lines, x[0], x[1], k, y[0]),
            true => cuda::lines::scatter_add(gpu, lines, x[0], x[1], k, y[0]),
        }
    }
}

impl Derivative for Gather {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        let transposed = Gather { scatters: !self.scatters, ..*self };
        Ok(vec![Some(apply(transposed, &[&dy, saved.operand(1)])?), None])
    }
}

/// Rows of `classes` elements: `values[0]` at the class, `values[1]` elsewhere.
struct OneHot {
    classes: usize,
    values: [f64; 2],
    dtype: DType,
}

impl Op for OneHot {
    fn spec(&self) -> Spec {
        Spec::new("one_hot", &["index"]).any_dtype()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let dims: Vec<usize> = x[0].dims().iter().copied().chain([self.classes]).collect();
        Ok(vec![TensorInfo::new(dims, self.dtype)?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let index = call.x::<i64>(0)?;
        crate::dtype::dispatch_any!(self.dtype, T => {
            let [on, off] = self.values.map(T::from_f64);
            let mut y = call.y::<T>(0)?;
            y.fill(off);
            index.iter().enumerate().for_each(|(row, class)| y[row * self.classes + *class as usize] = on);
        });
        Ok(())
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::lines::one_hot(gpu, x[0], self.classes, self.values, y[0])
    }
}
