//! Concatenation along an axis.
use super::cpu::copy_block::copy_block;
use crate::autograd::{Derivative, Gradients, Saved};
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::error::Operands;
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_any};
use crate::{Axis, Error, Result, Shape, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Concatenates tensors of one dtype along an axis; their other extents must be equal. Any dtype.
    pub fn cat(tensors: &[&Tensor], axis: impl Axis) -> Result<Tensor> {
        let Some(first) = tensors.first() else {
            let why = "needs at least one tensor".into();
            return Err(Error::Shape { op: "cat", operands: Operands(vec![]), why });
        };
        let axis = first.axis("cat", axis)?;
        apply(Concat { parts: tensors.iter().map(|t| *t.shape()).collect(), axis }, tensors)
    }
}

struct Concat {
    parts: Vec<Shape>,
    axis: usize,
}

impl Concat {
    /// Each part with its offset in the result.
    fn placed(&self) -> impl Iterator<Item = (&Shape, Vec<usize>)> {
        let mut start = 0;
        self.parts.iter().map(move |part| {
            let mut at = vec![0; part.rank()];
            at[self.axis] = start;
            start += part[self.axis];
            (part, at)
        })
    }

    fn shape(&self) -> Result<Shape> {
        self.parts[0].with(self.axis, self.parts.iter().map(|part| part[self.axis]).sum())
    }
}

impl Op for Concat {
    fn spec(&self) -> Spec {
        Spec::new("cat", &["x"]).any_dtype()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let others = |part: &Shape| (part[..self.axis].to_vec(), part[self.axis + 1..].to_vec());
        let first = &self.parts[0];
        if self.parts.iter().any(|part| part.rank() != first.rank() || others(part) != others(first)) {
            return Err(format!("extents must be equal except along axis {}", self.axis).into());
        }
        Ok(vec![TensorInfo::of(x[0]).with_shape(self.shape()?)])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let shape = self.shape()?;
        for_any!(call, T => {
            let mut y = call.y::<T>(0)?;
            for (i, (part, at)) in self.placed().enumerate() {
                copy_block(&call.x::<T>(i)?, part, &vec![0; at.len()], &mut y, &shape, &at, part);
            }
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> cuda::Result<()> {
        let shape = self.shape().expect("the result has it");
        for ((part, at), x) in self.placed().zip(x) {
            cuda::memory::copy::copy_block(gpu, (*x, part, &vec![0; at.len()]), (y[0], &shape, &at), part)?;
        }
        Ok(())
    }
}

impl Derivative for Concat {
    fn backward(&self, _: &Saved, dy: Tensor, needs: &[bool]) -> Result<Gradients> {
        let part = |((part, at), needed): ((&Shape, Vec<usize>), &bool)| {
            needed.then(|| dy.narrow(self.axis, at[self.axis], part[self.axis])).transpose()
        };
        self.placed().zip(needs).map(part).collect()
    }
}
