//! Resizing images by interpolation.
use super::{cpu, cuda};
use crate::autograd::{Derivative, Gradients, Saved};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_real};
use crate::resampling::{Interpolation, Resampling};
use crate::window::MAX_SIDE;
use crate::{Error, Result, Shape, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Resizes images `[n, h, w, c]` to `[n, size[0], size[1], c]`, as PyTorch's `interpolate`. f32, f16, bf16; f64 on the CPU.
    pub fn interpolate(&self, size: [usize; 2], how: Interpolation) -> Result<Tensor> {
        let operands = [("x", self)];
        let &[n, h, w, c] = self.dims() else {
            return Err(Error::shape(NAME, &operands, "needs images [n, h, w, c]"));
        };
        let is_side = |side: usize| (1..=MAX_SIDE).contains(&side);
        if c == 0 || ![h, w, size[0], size[1]].into_iter().all(is_side) {
            let why =
                format!("the sides of images and output must be 1 to 2^31 - 1; the output size is {size:?}");
            return Err(Error::shape(NAME, &operands, why));
        }
        Shape::new(&[n, size[0], size[1], c])?;
        let vertical = Resampling::interpolation(h, size[0], how);
        let horizontal = Resampling::interpolation(w, size[1], how);
        apply(Resample { vertical, horizontal, channels: c }, &[self])
    }
}

const NAME: &str = "interpolate";

/// Images resampled along both axes.
struct Resample {
    vertical: Resampling,
    horizontal: Resampling,
    channels: usize,
}

impl Op for Resample {
    fn spec(&self) -> Spec {
        Spec::new(NAME, &["x"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let size = [self.vertical.rows().len(), self.horizontal.rows().len()];
        let shape = [x[0].dims()[0], size[0], size[1], self.channels];
        Ok(vec![TensorInfo::new(shape, x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let (vertical, horizontal, c) = (&self.vertical, &self.horizontal, self.channels);
        for_real!(call, T => cpu::resample::<T>(vertical, horizontal, c, &call.x(0)?, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::interpolate::resample(gpu, &self.vertical, &self.horizontal, self.channels, x[0], y[0])
    }
}

impl Derivative for Resample {
    fn backward(&self, _: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        let (vertical, horizontal) = (self.vertical.transposed(), self.horizontal.transposed());
        Ok(vec![Some(apply(Resample { vertical, horizontal, channels: self.channels }, &[&dy])?)])
    }
}
