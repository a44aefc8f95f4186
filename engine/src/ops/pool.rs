//! Pooling of channels-last images.
use super::gpu::OnGpu;
use crate::autograd::is_tracked;
use crate::cpu::pool as kernel;
use crate::pool_shape::PoolShape;
use crate::resampling::Resampling;
use crate::{DType, Error, Pool2dOptions, Result, Shape, Tensor, cuda};

impl Tensor {
    /// Max pooling of images `[n, h, w, c]` over windows of at most 256 elements. Of equal maxima the first gets the gradient; NaN
    /// propagates. f32, f16, bf16; f64 on the CPU.
    pub fn max_pool2d(&self, pool: &Pool2dOptions) -> Result<Tensor> {
        let s = self.max_pool_shape(pool)?;
        if let Some(on) = OnGpu::of("max_pool2d", &[("x", self)])? {
            return self.max_pool2d_gpu(&on, s);
        }
        dispatch_stored!("max_pool2d", [("x", self)], T => {
            let shape = [s.n, s.out[0], s.out[1], s.c];
            let x = self.read::<T>()?;
            let index = Tensor::build(shape, |_: &mut [u8]| ())?;
            let y = Tensor::build(shape, |y: &mut [T]| kernel::max_forward(&s, &x, y, &mut index.write().expect("u8")))?;
            Ok(y.with_composed_backward("max_pool2d", &[self], || {
                let from = *self.shape();
                move |grad: Tensor, _: &[bool]| {
                    if is_tracked(&[&grad]) {
                        return Ok(vec![Some(scatter_to_argmax(&s, &index, &grad)?)]);
                    }
                    let (dy, index) = (grad.read::<T>()?, index.read::<u8>()?);
                    Ok(vec![Some(Tensor::build(from, |dx: &mut [T]| kernel::max_backward(&s, &dy, &index, dx))?)])
                }
            }))
        })
    }

    /// Average pooling of images `[n, h, w, c]`. A window that reaches over the edge divides by the number of elements inside the image;
    /// with `count_include_pad` padding counts too, but never the elements that only `ceil_mode` adds. f32, f16, bf16; f64 on the CPU.
    pub fn avg_pool2d(&self, pool: &Pool2dOptions, count_include_pad: bool) -> Result<Tensor> {
        let s = self.pool_shape("avg_pool2d", pool)?;
        if pool.dilation != [1, 1] {
            return Err(Error::value(
                "avg_pool2d",
                &[("x", self)],
                "average pooling does not support dilation; it must be [1, 1]",
            ));
        }
        if let Some(on) = OnGpu::of("avg_pool2d", &[("x", self)])? {
            return self.avg_pool2d_gpu(&on, s, count_include_pad);
        }
        let axis = |axis: usize| Resampling::window_mean(&s, axis, count_include_pad);
        self.resampled("avg_pool2d", axis(0), axis(1))
    }

    /// Shape of max pooling, checked.
    pub(super) fn max_pool_shape(&self, pool: &Pool2dOptions) -> Result<PoolShape> {
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

    fn max_pool2d_gpu(&self, on: &OnGpu, s: PoolShape) -> Result<Tensor> {
        let shape = [s.n, s.out[0], s.out[1], s.c];
        let index = on.empty(shape, DType::U8)?;
        let y = on.build(shape, self.dtype(), |y| {
            cuda::pool::max_forward(&on.gpu, &s, self.device_view().slice(), y, index.device_view().slice())
        })?;
        Ok(y.with_composed_backward("max_pool2d", &[self], || {
            let from = *self.shape();
            move |grad: Tensor, _: &[bool]| {
                if is_tracked(&[&grad]) {
                    return Ok(vec![Some(scatter_to_argmax(&s, &index, &grad)?)]);
                }
                let operands = [("grad", &grad)];
                let on = OnGpu::for_backward("max_pool2d", &operands)?;
                let dx = on.build(from, grad.dtype(), |dx| {
                    cuda::pool::max_backward(
                        &on.gpu,
                        &s,
                        grad.device_view().slice(),
                        index.device_view().slice(),
                        dx,
                    )
                })?;
                Ok(vec![Some(dx)])
            }
        }))
    }

    fn avg_pool2d_gpu(&self, on: &OnGpu, s: PoolShape, include_pad: bool) -> Result<Tensor> {
        let y = on.build([s.n, s.out[0], s.out[1], s.c], self.dtype(), |y| {
            cuda::pool::avg_forward(&on.gpu, &s, include_pad, self.device_view().slice(), y)
        })?;
        Ok(y.with_composed_backward("avg_pool2d", &[self], || {
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.avg_pool2d_backward(s, include_pad)?)])
        }))
    }

    /// The gradient of [`Tensor::avg_pool2d`] on a GPU.
    fn avg_pool2d_backward(&self, s: PoolShape, include_pad: bool) -> Result<Tensor> {
        let operands = [("grad", self)];
        let on = OnGpu::for_backward("avg_pool2d", &operands)?;
        let dx = on.build([s.n, s.size[0], s.size[1], s.c], self.dtype(), |dx| {
            cuda::pool::avg_backward(&on.gpu, &s, include_pad, self.device_view().slice(), dx)
        })?;
        Ok(dx.with_composed_backward("avg_pool2d", &[self], || {
            move |grad: Tensor, _: &[bool]| {
                let operands = [("grad", &grad)];
                Ok(vec![Some(grad.avg_pool2d_gpu(
                    &OnGpu::for_backward("avg_pool2d", &operands)?,
                    s,
                    include_pad,
                )?)])
            }
        }))
    }

    fn pool_shape(&self, op: &'static str, pool: &Pool2dOptions) -> Result<PoolShape> {
        let fail = |why: String| Err(Error::shape(op, &[("x", self)], why));
        let &[n, h, w, c] = self.dims() else {
            return fail("needs images [n, h, w, c]".into());
        };
        if h * w * c == 0 {
            return fail("images need at least one pixel and one channel".into());
        }
        if pool.kernel.contains(&0) || pool.stride.contains(&0) || pool.dilation.contains(&0) {
            return fail(format!("kernel, stride and dilation must be at least 1: {pool:?}"));
        }
        if (0..2).any(|a| pool.padding[a] > pool.kernel[a] / 2) {
            return fail(format!(
                "padding {:?} must be at most half of the kernel {:?}",
                pool.padding, pool.kernel
            ));
        }
        match (pool.windows(0, h), pool.windows(1, w)) {
            (Some(oh), Some(ow)) => {
                Shape::new(&[n, oh, ow, c])?;
                Ok(PoolShape { n, size: [h, w], out: [oh, ow], c, pool: pool.clamped() })
            }
            _ => fail(format!("a kernel of {:?} does not fit into {h}x{w} with its padding", pool.kernel)),
        }
    }
}

/// The gradient of [`Tensor::max_pool2d`] as operations: adds each window's gradient to the pixel at `index`, the position of the maximum
/// within the window.
fn scatter_to_argmax(s: &PoolShape, index: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let ([h, w], [oh, ow], c, width) = (s.size, s.out, s.c, s.pool.kernel[1]);
    let (mut pixels, mut inside) = (vec![], vec![]);
    for (i, tap) in index.to_vec::<u8>()?.into_iter().enumerate() {
        let (ox, oy, tap) = (i / c % ow, i / c / ow % oh, usize::from(tap));
        let at = |axis: usize, window: usize, tap: usize| {
            let at = s.start(axis, window) + (tap * s.pool.dilation[axis]) as isize;
            usize::try_from(at).ok().filter(|at| *at < s.size[axis])
        };
        // With dilation a window can contain no pixel.
        let pixel = at(0, oy, tap / width).zip(at(1, ox, tap % width)).map(|(iy, ix)| iy * w + ix);
        pixels.push(pixel.unwrap_or_default() as i64);
        inside.push(u8::from(pixel.is_some()));
    }
    let windows = [s.n, oh * ow, c];
    let on_device = |t: Tensor| t.to_device(&dy.device());
    let pixels = on_device(Tensor::from_vec(pixels, windows)?)?;
    let mut dy = dy.reshape(windows)?;
    if inside.contains(&0) {
        dy = dy.masked(&on_device(Tensor::from_vec(inside, windows)?.to_dtype(dy.dtype())?)?)?;
    }
    dy.scatter_add(1, &pixels, [s.n, h * w, c])?.reshape([s.n, h, w, c])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BatchNorm, DType, Device, Interpolation};

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
