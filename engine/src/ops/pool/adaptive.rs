//! Adaptive pooling to a given size. Window `i` of `out` over `in` elements covers `floor(i * in / out) .. ceil((i + 1) * in / out)`.
use super::cuda::adaptive as cuda;
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_real};
use crate::ops::image::cpu::resample;
use crate::resampling::Resampling;
use crate::{DType, Error, Result, Shape, Tensor};
use std::sync::Arc;

/// Shape of an adaptive pooling from images `[n, size, c]` to `[n, out, c]`.
#[derive(Clone, Copy, Debug)]
pub struct AdaptivePool {
    /// Batch size.
    pub n: usize,
    /// Input height and width.
    pub size: [usize; 2],
    /// Output height and width.
    pub out: [usize; 2],
    /// Channels.
    pub c: usize,
}

impl AdaptivePool {
    fn input(&self) -> [usize; 4] {
        [self.n, self.size[0], self.size[1], self.c]
    }

    fn output(&self) -> [usize; 4] {
        [self.n, self.out[0], self.out[1], self.c]
    }
}

impl Tensor {
    /// Adaptive average pooling of images `[n, h, w, c]` to `[n, out[0], out[1], c]`. f32, f16, bf16; f64 on the CPU.
    pub fn adaptive_avg_pool2d(&self, out: [usize; 2]) -> Result<Tensor> {
        let shape = self.adaptive_pool("adaptive_avg_pool2d", out)?;
        apply(AdaptiveAvgPool { shape, transposed: false }, &[self])
    }

    /// Adaptive max pooling of images `[n, h, w, c]` to `[n, out[0], out[1], c]`. Of equal maxima the first gets the gradient; NaN
    /// propagates. f32, f16, bf16; f64 on the CPU.
    pub fn adaptive_max_pool2d(&self, out: [usize; 2]) -> Result<Tensor> {
        apply(AdaptiveMaxPool(self.adaptive_pool("adaptive_max_pool2d", out)?), &[self])
    }

    fn adaptive_pool(&self, op: &'static str, out: [usize; 2]) -> Result<AdaptivePool> {
        match *self.dims() {
            [n, h, w, c] if h * w * c > 0 && !out.contains(&0) => {
                Shape::new(&[n, out[0], out[1], c])?;
                Ok(AdaptivePool { n, size: [h, w], out, c })
            }
            _ => {
                let why = format!(
                    "needs non-empty images [n, h, w, c] and an output size of at least 1x1, not {out:?}"
                );
                Err(Error::shape(op, &[("x", self)], why))
            }
        }
    }
}

/// Mean of each window, or its transpose: the sum of `dy / pixels of the window` over the windows that cover each pixel.
#[derive(Clone, Copy)]
struct AdaptiveAvgPool {
    shape: AdaptivePool,
    transposed: bool,
}

impl Op for AdaptiveAvgPool {
    fn spec(&self) -> Spec {
        Spec::new("adaptive_avg_pool2d", &["x"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let shape = if self.transposed { self.shape.input() } else { self.shape.output() };
        Ok(vec![TensorInfo::new(shape, x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let [vertical, horizontal] = [0, 1].map(|axis| {
            let means = Resampling::adaptive_mean(self.shape.size[axis], self.shape.out[axis]);
            if self.transposed { means.transposed() } else { means }
        });
        for_real!(call, T => resample::<T>(&vertical, &horizontal, self.shape.c, &call.x(0)?, &mut call.y(0)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        match self.transposed {
            false => cuda::avg_forward(gpu, &self.shape, x[0], y[0]),
            true => cuda::avg_backward(gpu, &self.shape, x[0], y[0]),
        }
    }
}

impl Derivative for AdaptiveAvgPool {
    fn backward(&self, _: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(apply(AdaptiveAvgPool { transposed: !self.transposed, ..*self }, &[&dy])?)])
    }
}

/// Maximum of each window, and the index of its pixel within the image, as the bits of an f32.
struct AdaptiveMaxPool(AdaptivePool);

impl Op for AdaptiveMaxPool {
    fn spec(&self) -> Spec {
        Spec::new("adaptive_max_pool2d", &["x"])
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        if self.0.size[0] * self.0.size[1] >= 1 << 24 {
            return Err("an image must have less than 2^24 pixels".into());
        }
        let shape = self.0.output();
        Ok(vec![TensorInfo::new(shape, x[0].dtype())?, TensorInfo::new(shape, DType::F32)?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let mut pixel = call.y::<f32>(1)?;
        for_real!(call, T => self.0.max_forward::<T>(&call.x(0)?, &mut call.y(0)?, bytemuck::cast_slice_mut(&mut pixel)))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::max_forward(gpu, &self.0, x[0], y[0], y[1])
    }
}

impl Derivative for AdaptiveMaxPool {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::results(&[1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(apply(AtMaxima { shape: self.0, picks: false }, &[&dy, saved.result(1)])?)])
    }
}

/// Gradient of [`AdaptiveMaxPool`]: for each pixel the sum of the gradients of the windows whose maximum it is. Or the transpose, which
/// `picks` for each window the pixel that was its maximum.
#[derive(Clone, Copy)]
struct AtMaxima {
    shape: AdaptivePool,
    picks: bool,
}

impl Op for AtMaxima {
    fn spec(&self) -> Spec {
        Spec::new("adaptive_max_pool2d", &["x", "index"]).mixed_dtypes()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let shape = if self.picks { self.shape.output() } else { self.shape.input() };
        Ok(vec![TensorInfo::new(shape, x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let index = call.x::<f32>(1)?;
        let pixel: &[u32] = bytemuck::cast_slice(&index);
        for_real!(call, T => match self.picks {
            false => self.shape.max_backward::<T>(&call.x(0)?, pixel, &mut call.y(0)?),
            true => self.shape.pick_maxima::<T>(&call.x(0)?, pixel, &mut call.y(0)?),
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        match self.picks {
            false => cuda::max_backward(gpu, &self.shape, x[0], x[1], y[0]),
            true => cuda::pick_maxima(gpu, &self.shape, x[0], x[1], y[0]),
        }
    }
}

impl Derivative for AtMaxima {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::operands(&[1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        let transposed = AtMaxima { picks: !self.picks, ..*self };
        Ok(vec![Some(apply(transposed, &[&dy, saved.operand(1)])?), None])
    }
}
