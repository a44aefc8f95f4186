//! Pooling of channels-last images.
use crate::cpu::pool as kernel;
use crate::pool_shape::PoolShape;
use crate::resampling::Resampling;
use crate::{Error, Pool2d, Result, Tensor};

impl Tensor {
    /// The largest element of each window of images `[n, h, w, c]`; the first among equals gets the gradient, NaN wins. f32, f64.
    pub fn max_pool2d(&self, pool: &Pool2d) -> Result<Tensor> {
        let s = self.pool_shape("max_pool2d", pool)?;
        if pool.kernel[0] * pool.kernel[1] > 256 {
            // Which element of a window was the largest is remembered in a byte.
            return Err(Error::value(
                "max_pool2d",
                &[("x", self)],
                "a window has at most 256 elements; see global_pool for a whole image",
            ));
        }
        dispatch_real!("max_pool2d", [("x", self)], T => {
            let shape = [s.n, s.out[0], s.out[1], s.c];
            let x = self.read::<T>()?;
            let index = Tensor::build(shape, |_: &mut [u8]| ())?;
            let y = Tensor::build(shape, |y: &mut [T]| kernel::max_forward(&s, &x, y, &mut index.write().expect("u8")))?;
            Ok(y.recorded("max_pool2d", &[self], || {
                let from = *self.shape();
                move |grad: Tensor, _: &[bool]| {
                    let (dy, index) = (grad.read::<T>()?, index.read::<u8>()?);
                    Ok(vec![Some(Tensor::build(from, |dx: &mut [T]| kernel::max_backward(&s, &dy, &index, dx))?)])
                }
            }))
        })
    }

    /// The mean of each window of images `[n, h, w, c]`. Windows that reach over the edge divide by the elements inside, or with
    /// `count_include_pad` also by those in the padding (never by those that only `ceil_mode` adds). f32, f64.
    pub fn avg_pool2d(&self, pool: &Pool2d, count_include_pad: bool) -> Result<Tensor> {
        let s = self.pool_shape("avg_pool2d", pool)?;
        if pool.dilation != [1, 1] {
            return Err(Error::value("avg_pool2d", &[("x", self)], "average pooling has no dilation"));
        }
        let axis = |axis: usize| Resampling::window_mean(&s, axis, count_include_pad);
        self.resampled("avg_pool2d", axis(0), axis(1))
    }

    fn pool_shape(&self, op: &'static str, pool: &Pool2d) -> Result<PoolShape> {
        let fail = |why: String| Err(Error::shape(op, &[("x", self)], why));
        let &[n, h, w, c] = self.dims() else {
            return fail("needs images [n, h, w, c]".into());
        };
        if pool.kernel.contains(&0) || pool.stride.contains(&0) || pool.dilation.contains(&0) {
            return fail(format!("kernel, stride and dilation must be at least 1: {pool:?}"));
        }
        if (0..2).any(|a| pool.padding[a] > pool.kernel[a] / 2) {
            return fail(format!(
                "padding {:?} is more than half of the kernel {:?}",
                pool.padding, pool.kernel
            ));
        }
        match (pool.windows(0, h), pool.windows(1, w)) {
            (Some(oh), Some(ow)) => Ok(PoolShape { n, size: [h, w], out: [oh, ow], c, pool: *pool }),
            _ => fail(format!("a window of {:?} does not fit into {h}x{w}", pool.kernel)),
        }
    }
}
