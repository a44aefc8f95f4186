//! Max pooling.
use super::{PoolShape, cpu, cuda};
use crate::autograd::{Derivative, Gradients, Saved, Saves};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_stored};
use crate::{DType, Error, Pool2dOptions, Result, Tensor};
use std::sync::Arc;

impl Tensor {
    /// Max pooling of images `[n, h, w, c]` over windows of at most 256 elements. Of equal maxima the first gets the gradient; NaN
    /// propagates. f32, f16, bf16; f64 on the CPU.
    pub fn max_pool2d(&self, pool: &Pool2dOptions) -> Result<Tensor> {
        apply(MaxPool(self.max_pool_shape(pool)?), &[self])
    }

    /// Shape of max pooling, checked.
    pub(in crate::ops) fn max_pool_shape(&self, pool: &Pool2dOptions) -> Result<PoolShape> {
        let s = self.pool_shape("max_pool2d", pool)?;
        if pool.kernel[0].saturating_mul(pool.kernel[1]) > 256 {
            // The index of the maximum within its window is stored in a byte.
            return Err(Error::value(
                "max_pool2d",
                &[("x", self)],
                "a window must have at most 256 elements; use global_pool for a whole image",
            ));
        }
        Ok(s)
    }
}

/// Maximum of each window, and its index within the window (u8).
struct MaxPool(PoolShape);

impl Op for MaxPool {
    fn spec(&self) -> Spec {
        Spec::new("max_pool2d", &["x"]).stores_half_on_cpu()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let shape = self.0.output();
        Ok(vec![TensorInfo::new(shape, x[0].dtype())?, TensorInfo::new(shape, DType::U8)?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_stored!(call, T => cpu::max_forward::<T>(&self.0, &call.x(0)?, &mut call.y(0)?, &mut call.y(1)?))
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        cuda::max_forward(gpu, &self.0, x[0], y[0], y[1])
    }
}

impl Derivative for MaxPool {
    fn saves(&self, _: &[bool]) -> Saves {
        Saves::results(&[1])
    }

    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(apply(AtMaxima { shape: self.0, picks: false }, &[&dy, saved.result(1)])?)])
    }
}

/// Gradient of [`MaxPool`]: for each pixel the sum of the gradients of the windows whose maximum it is. Or the transpose, which `picks` for each
/// window the pixel that was its maximum, and 0 for a window without pixels.
struct AtMaxima {
    shape: PoolShape,
    picks: bool,
}

impl Op for AtMaxima {
    fn spec(&self) -> Spec {
        Spec::new("max_pool2d", &["x", "index"]).mixed_dtypes().stores_half_on_cpu()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let shape = if self.picks { self.shape.output() } else { self.shape.input() };
        Ok(vec![TensorInfo::new(shape, x[0].dtype())?])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_stored!(call, T => match self.picks {
            false => cpu::max_backward::<T>(&self.shape, &call.x(0)?, &call.x(1)?, &mut call.y(0)?),
            true => cpu::pick_maxima::<T>(&self.shape, &call.x(0)?, &call.x(1)?, &mut call.y(0)?),
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
        let transposed = AtMaxima { shape: self.shape, picks: !self.picks };
        Ok(vec![Some(apply(transposed, &[&dy, saved.operand(1)])?), None])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchNorm, Device, Interpolation};

    fn images(shape: [usize; 4]) -> Tensor {
        Tensor::ones(shape, DType::F32, &Device::Cpu).expect("memory")
    }

    #[test]
    fn invalid_pooling_is_a_typed_error() {
        let x = images([1, 4, 4, 2]);
        let is_rejected = |pool: Pool2dOptions| matches!(x.max_pool2d(&pool), Err(Error::Shape { .. }));
        assert!(is_rejected(Pool2dOptions { kernel: [5, 5], ..Pool2dOptions::default() }));
        assert!(is_rejected(Pool2dOptions { padding: [2, 2], ..Pool2dOptions::default() }));
        assert!(is_rejected(Pool2dOptions { stride: [0, 1], ..Pool2dOptions::default() }));
        assert!(matches!(
            images([1, 4, 4, 0]).max_pool2d(&Pool2dOptions::default()),
            Err(Error::Shape { .. })
        ));
        let dilated = Pool2dOptions { dilation: [2, 1], ..Pool2dOptions::default() };
        assert!(matches!(x.avg_pool2d(&dilated, true), Err(Error::Value { .. })));
        assert!(matches!(x.adaptive_max_pool2d([0, 1]), Err(Error::Shape { .. })));
        assert!(matches!(x.interpolate([2, 0], Interpolation::Nearest), Err(Error::Shape { .. })));
        assert!(matches!(x.flatten(1).and_then(|x| x.adaptive_avg_pool2d([1, 1])), Err(Error::Shape { .. })));
    }

    #[test]
    fn max_pool_window_without_pixels_is_minus_infinity() {
        let pool = Pool2dOptions { padding: [1, 1], dilation: [2, 2], ..Pool2dOptions::default() };
        for dtype in [DType::F32, DType::F64] {
            let x = Tensor::ones([1, 1, 1, 3], dtype, &Device::Cpu).expect("memory").variable();
            let y = x.max_pool2d(&pool).expect("one window").sum_all().expect("a sum");
            assert_eq!(y.item().expect("a number"), f64::NEG_INFINITY);
            y.backward().expect("has a gradient");
            let dx = x.grad().expect("a variable").to_dtype(DType::F64).expect("f64");
            assert_eq!(dx.to_vec::<f64>().expect("f64"), [0.0; 3]);
        }
    }

    #[test]
    fn batch_norm_training_on_one_value_per_channel_is_an_error() {
        let norm = BatchNorm { training: true, ..BatchNorm::default() };
        assert!(matches!(images([1, 1, 1, 3]).batch_norm(&norm), Err(Error::Shape { .. })));
    }
}
