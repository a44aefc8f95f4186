//! Average pooling.
use super::{PoolShape, cuda};
use crate::autograd::{Derivative, Gradients, Saved};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_real};
use crate::ops::image::cpu::resample;
use crate::resampling::{Resampling, ResamplingBand};
use crate::{Error, Pool2dOptions, Result, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Average pooling of images `[n, h, w, c]`. A window that reaches over the edge divides by the number of elements inside the image;
    /// with `count_include_pad` padding counts too, but never the elements that only `ceil_mode` adds. f32, f16, bf16; f64 on the CPU.
    pub fn avg_pool2d(&self, pool: &Pool2dOptions, count_include_pad: bool) -> Result<Tensor> {
        let shape = self.pool_shape("avg_pool2d", pool)?;
        if pool.dilation != [1, 1] {
            return Err(Error::value(
                "avg_pool2d",
                &[("x", self)],
                "average pooling does not support dilation; it must be [1, 1]",
            ));
        }
        apply(AvgPool { shape, count_include_pad, transposed: false }, &[self])
    }
}

/// Mean of each window, or its transpose: the sum of `dy / divisor` over the windows that cover each pixel.
#[derive(Clone, Copy)]
struct AvgPool {
    shape: PoolShape,
    count_include_pad: bool,
    transposed: bool,
}

impl Op for AvgPool {
    fn spec(&self) -> Spec {
        Spec::new("avg_pool2d", &["x"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let shape = if self.transposed { self.shape.input() } else { self.shape.output() };
        Ok(vec![TensorInfo::new(shape, x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let [vertical, horizontal] = [0, 1].map(|axis| {
            let means = window_means(&self.shape, axis, self.count_include_pad);
            if self.transposed { means.transposed() } else { means }
        });
        for_real!(call, T => resample::<T>(&vertical, &horizontal, self.shape.c, &call.x(0)?, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        match self.transposed {
            false => cuda::avg_forward(gpu, &self.shape, self.count_include_pad, x[0], y[0]),
            true => cuda::avg_backward(gpu, &self.shape, self.count_include_pad, x[0], y[0]),
        }
    }
}

impl Derivative for AvgPool {
    fn backward(&self, _: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(apply(AvgPool { transposed: !self.transposed, ..*self }, &[&dy])?)])
    }
}

/// The means of a pooling's windows along an axis.
pub(crate) fn window_means(s: &PoolShape, axis: usize, count_include_pad: bool) -> Resampling {
    let rows = (0..s.out[axis]).map(|i| {
        let inside = s.taps(axis, i);
        let start = s.start(axis, i);
        let end = start + s.pool.kernel[axis] as isize;
        let padded = end.min((s.size[axis] + s.pool.padding[axis]) as isize) - start;
        let positions: Vec<usize> = inside.map(|(_, at)| at).collect();
        let divisor = if count_include_pad { padded as usize } else { positions.len() };
        ResamplingBand {
            start: positions.first().copied().unwrap_or(0),
            weights: vec![1.0 / divisor as f64; positions.len()],
        }
    });
    Resampling::new(s.size[axis], rows.collect())
}
