//! Sums and means over axes.
use super::axis::{ReducedAxes, in_passes};
use super::{cpu, cuda};
use crate::autograd::{Derivative, Gradients, Saved};
use crate::cuda::{DeviceBuffer, DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_real};
use crate::{Axes, DType, Element, Result, Shape, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Sum over the given axes; with `keepdim` they stay with extent 1. f32, f16, bf16; f64 on the CPU, where partial sums are merged in f64.
    pub fn sum(&self, axes: impl Axes, keepdim: bool) -> Result<Tensor> {
        self.scaled_sum("sum", axes, keepdim, 1.0)
    }

    /// Mean over the given axes; with `keepdim` they stay with extent 1. f32, f16, bf16; f64 on the CPU.
    pub fn mean(&self, axes: impl Axes, keepdim: bool) -> Result<Tensor> {
        let axes = axes.indices("mean", self)?;
        let count: usize = axes.iter().map(|a| self.dims()[*a]).product();
        self.scaled_sum("mean", &axes, keepdim, 1.0 / count as f64)
    }

    /// Sum of all elements, as a scalar.
    pub fn sum_all(&self) -> Result<Tensor> {
        self.sum(&(0..self.rank()).collect::<Vec<_>>(), false)
    }

    /// Mean of all elements, as a scalar.
    pub fn mean_all(&self) -> Result<Tensor> {
        self.mean(&(0..self.rank()).collect::<Vec<_>>(), false)
    }

    fn scaled_sum(&self, name: &'static str, axes: impl Axes, keepdim: bool, factor: f64) -> Result<Tensor> {
        let axes = ReducedAxes { axes: axes.indices(name, self)?, keepdim };
        apply(Sum { name, axes, from: *self.shape(), factor }, &[self])
    }
}

/// The sum over axes times a factor. It is applied in the last pass, since the sum itself may overflow f16.
struct Sum {
    name: &'static str,
    axes: ReducedAxes,
    from: Shape,
    factor: f64,
}

impl Op for Sum {
    fn spec(&self) -> Spec {
        Spec::new(self.name, &["x"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo::new(self.axes.of(&self.from), x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let passes = passes(&self.from, &self.axes.axes);
        let sizes: Vec<usize> = passes.iter().map(|[outer, _, inner]| outer * inner).collect();
        for_real!(call, T => {
            let (x, mut y) = (call.x::<T>(0)?, call.y::<T>(0)?);
            in_passes(&x, &sizes, &mut y, |i, x, y| {
                let [outer, n, inner] = passes[i];
                cpu::sum::sum(x, outer, n, inner, y);
            });
            if self.factor != 1.0 {
                let factor = <T as Element>::from_f64(self.factor);
                y.iter_mut().for_each(|y| *y *= factor);
            }
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let passes = passes(&self.from, &self.axes.axes);
        let Some(([outer, n, inner], before)) = passes.split_last() else { return gpu.copy(x[0], y[0]) };
        // Partial results between passes are f32.
        let mut partial: Option<DeviceBuffer> = None;
        for extents in before {
            let next = gpu.empty(extents[0] * extents[2], DType::F32)?;
            let from = partial.as_ref().map_or(x[0], |partial| partial.as_slice(DType::F32));
            cuda::sum::sum(gpu, from, *extents, 1.0, next.as_slice(DType::F32))?;
            partial = Some(next);
        }
        let from = partial.as_ref().map_or(x[0], |partial| partial.as_slice(DType::F32));
        cuda::sum::sum(gpu, from, [*outer, *n, *inner], self.factor, y[0])
    }
}

impl Derivative for Sum {
    fn backward(&self, _: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        let dy = if self.factor == 1.0 { dy } else { dy.mul_scalar(self.factor)? };
        Ok(vec![Some(dy.reshape(self.axes.kept(&self.from))?.expand(self.from)?)])
    }
}

/// The passes of a sum: innermost axes first, neighbouring axes in one pass. Each has the extents before, of and after the summed axes.
fn passes(shape: &Shape, axes: &[usize]) -> Vec<[usize; 3]> {
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    let (mut dims, mut passes) = (*shape, vec![]);
    while let Some(last) = sorted.pop() {
        let mut first = last;
        while sorted.last().is_some_and(|axis| axis + 1 == first) {
            first = sorted.pop().expect("just seen");
        }
        let extent = |axes: &[usize]| axes.iter().product::<usize>();
        passes.push([extent(&dims[..first]), extent(&dims[first..=last]), extent(&dims[last + 1..])]);
        dims = (first..=last).fold(dims, |s, axis| s.reduced(axis));
    }
    passes
}
