//! Maxima and minima with their indices, and top-k.
use super::axis::{ReducedAxes, in_passes};
use super::cuda::lines::SortOrder;
use super::{Lines, cpu, cuda};
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceBuffer, DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, compute, for_real};
use crate::{Axes, Axis, DType, Error, Result, Shape, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Maximum over the given axes; the gradient is divided evenly among equal maxima, as in PyTorch's `amax`. f32, f16, bf16; f64 on the
    /// CPU.
    pub fn amax(&self, axes: impl Axes, keepdim: bool) -> Result<Tensor> {
        self.extremum_over("amax", axes, keepdim, false)
    }

    /// Minimum over the given axes; the gradient is divided evenly among equal minima, as in PyTorch's `amin`. f32, f16, bf16; f64 on the
    /// CPU.
    pub fn amin(&self, axes: impl Axes, keepdim: bool) -> Result<Tensor> {
        self.extremum_over("amin", axes, keepdim, true)
    }

    /// Maximum along an axis and its index (i64), like PyTorch's `max(dim)`. Of equal maxima the first is chosen, and gets the whole gradient.
    /// f32, f16, bf16; f64 on the CPU.
    ///
    /// ```
    /// # use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let (values, indices) = Tensor::new([[1.0f32, 5.0], [4.0, 3.0]])?.max(1)?;
    /// assert_eq!((values.to_vec::<f32>()?, indices.to_vec::<i64>()?), (vec![5.0, 4.0], vec![1, 0]));
    /// # Ok(()) }
    /// ```
    pub fn max(&self, axis: impl Axis) -> Result<(Tensor, Tensor)> {
        self.extremum_with_index("max", axis, false)
    }

    /// Minimum along an axis and its index (i64), as [`Tensor::max`].
    pub fn min(&self, axis: impl Axis) -> Result<(Tensor, Tensor)> {
        self.extremum_with_index("min", axis, true)
    }

    /// The elements sorted along an axis, and their indices (i64). f32, f16, bf16; f64 on the CPU.
    ///
    /// ```
    /// # use fornax_engine::{Result, Tensor};
    /// # fn main() -> Result<()> {
    /// let (values, indices) = Tensor::new([2.0f32, 3.0, 1.0])?.sort(0, false)?;
    /// assert_eq!((values.to_vec::<f32>()?, indices.to_vec::<i64>()?), (vec![1.0, 2.0, 3.0], vec![2, 0, 1]));
    /// # Ok(()) }
    /// ```
    pub fn sort(&self, axis: impl Axis, descending: bool) -> Result<(Tensor, Tensor)> {
        let axis = self.axis("sort", axis)?;
        self.topk(self.dims()[axis], axis, descending)
    }

    /// The indices (i64) that sort an axis: the second result of [`Tensor::sort`].
    pub fn argsort(&self, axis: impl Axis, descending: bool) -> Result<Tensor> {
        Ok(self.sort(axis, descending)?.1)
    }

    /// Index (i64) of the maximum along an axis, the first of equal maxima. f32, f16, bf16; f64 on the CPU.
    pub fn argmax(&self, axis: impl Axis) -> Result<Tensor> {
        let axis = self.axis("argmax", axis)?;
        self.arg_extremum("argmax", axis, false)?.reshape(self.shape().without(axis))
    }

    /// Index (i64) of the minimum along an axis, the first of equal minima. f32, f16, bf16; f64 on the CPU.
    pub fn argmin(&self, axis: impl Axis) -> Result<Tensor> {
        let axis = self.axis("argmin", axis)?;
        self.arg_extremum("argmin", axis, true)?.reshape(self.shape().without(axis))
    }

    /// The `k` largest (or, unless `largest`, smallest) values along an axis in sorted order, and their indices (i64). f32, f16, bf16; f64 on
    /// the CPU.
    pub fn topk(&self, k: usize, axis: impl Axis, largest: bool) -> Result<(Tensor, Tensor)> {
        let axis = self.axis("topk", axis)?;
        if k > self.dims()[axis] {
            return Err(Error::shape(
                "topk",
                &[("x", self)],
                format!("axis {axis} has fewer than {k} elements"),
            ));
        }
        let (lines, shape) = (Lines::new(self.shape(), axis), self.shape().with(axis, k)?);
        let index = compute(&TopK { lines, shape, k, smallest: !largest }, &[self])?;
        Ok((self.gather_unchecked(axis, &index)?, index))
    }

    fn extremum_with_index(
        &self,
        name: &'static str,
        axis: impl Axis,
        smallest: bool,
    ) -> Result<(Tensor, Tensor)> {
        let axis = self.axis(name, axis)?;
        let index = self.arg_extremum(name, axis, smallest)?;
        let values = self.gather_unchecked(axis, &index)?;
        let shape = self.shape().without(axis);
        Ok((values.reshape(shape)?, index.reshape(shape)?))
    }

    fn arg_extremum(&self, name: &'static str, axis: usize, smallest: bool) -> Result<Tensor> {
        if self.dims()[axis] == 0 {
            return Err(Error::shape(name, &[("x", self)], format!("axis {axis} is empty")));
        }
        let (lines, shape) = (Lines::new(self.shape(), axis), self.shape().reduced(axis));
        compute(&ArgExtremum { name, lines, shape, smallest }, &[self])
    }

    fn extremum_over(
        &self,
        name: &'static str,
        axes: impl Axes,
        keepdim: bool,
        smallest: bool,
    ) -> Result<Tensor> {
        let axes = axes.indices(name, self)?;
        if let Some(axis) = axes.iter().find(|axis| self.dims()[**axis] == 0) {
            return Err(Error::shape(name, &[("x", self)], format!("axis {axis} is empty")));
        }
        let axes = ReducedAxes { axes, keepdim };
        apply(Extremum { name, axes, from: *self.shape(), smallest }, &[self])
    }
}

/// Indices of the first `k` elements of each line, sorted.
struct TopK {
    lines: Lines,
    shape: Shape,
    k: usize,
    smallest: bool,
}

impl Op for TopK {
    fn spec(&self) -> Spec {
        Spec::new("topk", &["x"])
    }

    fn results(&self, _: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::new(self.shape, DType::I64)?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let (lines, k) = (self.lines, self.k);
        for_real!(call, T => cpu::lines::top_k::<T>(lines, &call.x(0)?, k, self.smallest, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        // NaN counts as the largest value.
        let order = SortOrder { smallest: self.smallest, nan_first: !self.smallest };
        cuda::lines::top_k(gpu, self.lines, x[0], self.k, order, None, Some(y[0]))
    }
}

/// Index of the first extremum of each line.
struct ArgExtremum {
    name: &'static str,
    lines: Lines,
    shape: Shape,
    smallest: bool,
}

impl Op for ArgExtremum {
    fn spec(&self) -> Spec {
        Spec::new(self.name, &["x"])
    }

    fn results(&self, _: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::new(self.shape, DType::I64)?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let smallest = self.smallest;
        for_real!(call, T => cpu::lines::arg_extreme::<T>(self.lines, &call.x(0)?, smallest, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let order = SortOrder { smallest: self.smallest, nan_first: true };
        cuda::lines::top_k(gpu, self.lines, x[0], 1, order, None, Some(y[0]))
    }
}

/// Extremum over axes, in one pass for each axis.
struct Extremum {
    name: &'static str,
    axes: ReducedAxes,
    from: Shape,
    smallest: bool,
}

impl Extremum {
    fn passes(&self) -> Vec<Lines> {
        let mut shape = self.from;
        let line = |axis: &usize| {
            let lines = Lines::new(&shape, *axis);
            shape = shape.reduced(*axis);
            lines
        };
        self.axes.axes.iter().map(line).collect()
    }
}

impl Op for Extremum {
    fn spec(&self) -> Spec {
        Spec::new(self.name, &["x"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::new(self.axes.of(&self.from), x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let passes = self.passes();
        let sizes: Vec<usize> = passes.iter().map(Lines::count).collect();
        for_real!(call, T => in_passes::<T>(&call.x(0)?, &sizes, &mut call.y(0)?, |i, x, y| {
            cpu::lines::extreme(passes[i], x, self.smallest, y)
        }))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let order = SortOrder { smallest: self.smallest, nan_first: true };
        let (passes, dtype) = (self.passes(), x[0].dtype);
        let Some((last, before)) = passes.split_last() else { return gpu.copy(x[0], y[0]) };
        let mut current: Option<DeviceBuffer> = None;
        for lines in before {
            let next = gpu.empty(lines.count(), dtype)?;
            let from = current.as_ref().map_or(x[0], |current| current.as_slice(dtype));
            cuda::lines::top_k(gpu, *lines, from, 1, order, Some(next.as_slice(dtype)), None)?;
            current = Some(next);
        }
        let from = current.as_ref().map_or(x[0], |current| current.as_slice(dtype));
        cuda::lines::top_k(gpu, *last, from, 1, order, Some(y[0]), None)
    }
}

impl Derivative for Extremum {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[0]).and_results(&[0])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        // Equal extrema are constants.
        let kept = self.axes.kept(&self.from);
        let is_extremum = saved.operand(0).detach().equal(&saved.result(0).detach().reshape(kept)?)?;
        let each = dy.reshape(kept)?.div(&is_extremum.sum(&self.axes.axes, true)?)?;
        Ok(vec![Some(is_extremum.mul(&each)?)])
    }
}
