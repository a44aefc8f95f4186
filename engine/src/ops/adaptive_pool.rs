//! Pooling to a given size: adaptive pooling, and global pooling to one pixel. Window `i` of `out` over `in` elements covers
//! `floor(i * in / out) .. ceil((i + 1) * in / out)`.
use super::gpu::OnGpu;
use crate::autograd::is_tracked;
use crate::cpu::adaptive_pool::{AdaptivePool, amax_backward};
use crate::resampling::Resampling;
use crate::{DType, Error, Result, Tensor, cuda};

/// How a whole feature map becomes one vector; timm's names in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalPool {
    /// Mean (`avg`, `fastavg`).
    Avg,
    /// Maximum; the first among equals gets the gradient (`max`).
    Max,
    /// The mean of both (`avgmax`).
    AvgMax,
    /// Mean and maximum one after the other: twice the channels (`catavgmax`).
    CatAvgMax,
    /// Maximum; equals share the gradient evenly (`fastmax`).
    FastMax,
    /// The mean of `Avg` and `FastMax` (`fastavgmax`).
    FastAvgMax,
    /// `Avg` and `FastMax` one after the other (`fastcatavgmax`).
    FastCatAvgMax,
}

impl std::str::FromStr for GlobalPool {
    type Err = String;

    /// By timm's name.
    fn from_str(name: &str) -> std::result::Result<GlobalPool, String> {
        Ok(match name {
            "avg" | "fastavg" => GlobalPool::Avg,
            "max" => GlobalPool::Max,
            "avgmax" => GlobalPool::AvgMax,
            "catavgmax" => GlobalPool::CatAvgMax,
            "fastmax" => GlobalPool::FastMax,
            "fastavgmax" => GlobalPool::FastAvgMax,
            "fastcatavgmax" => GlobalPool::FastCatAvgMax,
            _ => {
                return Err(format!(
                    "there is no global pooling {name:?}; there are avg, max, avgmax, catavgmax and these with fast in front"
                ));
            }
        })
    }
}

impl Tensor {
    /// The means of `out` windows of images `[n, h, w, c]`: `[n, out[0], out[1], c]`.
    pub fn adaptive_avg_pool2d(&self, out: [usize; 2]) -> Result<Tensor> {
        const OP: &str = "adaptive_avg_pool2d";
        let operands = [("x", self)];
        let Some(on) = OnGpu::of(OP, &operands)? else {
            return self.resample(OP, out, Resampling::adaptive_mean);
        };
        let pool = self.adaptive_pool(OP, out)?;
        let y = on.build([pool.n, out[0], out[1], pool.c], self.dtype(), |y| {
            cuda::adaptive_pool::avg_forward(&on.gpu, &pool, self.device_view().slice(), y)
        })?;
        Ok(y.with_composed_backward(OP, &[self], || {
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.adaptive_avg_pool2d_backward(pool)?)])
        }))
    }

    /// The gradient of [`Tensor::adaptive_avg_pool2d`] on a GPU.
    fn adaptive_avg_pool2d_backward(&self, pool: AdaptivePool) -> Result<Tensor> {
        const OP: &str = "adaptive_avg_pool2d";
        let operands = [("grad", self)];
        let on = OnGpu::for_backward(OP, &operands)?;
        let dx = on.build([pool.n, pool.size[0], pool.size[1], pool.c], self.dtype(), |dx| {
            cuda::adaptive_pool::avg_backward(&on.gpu, &pool, self.device_view().slice(), dx)
        })?;
        Ok(dx.with_composed_backward(OP, &[self], || {
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.adaptive_avg_pool2d(pool.out)?)])
        }))
    }

    /// The maxima of `out` windows of images `[n, h, w, c]`: `[n, out[0], out[1], c]`; the first among equals gets the
    /// gradient, NaN wins.
    pub fn adaptive_max_pool2d(&self, out: [usize; 2]) -> Result<Tensor> {
        const OP: &str = "adaptive_max_pool2d";
        let pool = self.adaptive_pool(OP, out)?;
        if let Some(on) = OnGpu::of(OP, &[("x", self)])? {
            return self.adaptive_max_pool2d_gpu(&on, pool);
        }
        if self.is_half_on_cpu() {
            return self.widened()?.adaptive_max_pool2d(out)?.rounded_as(self);
        }
        if pool.size[0] * pool.size[1] >= 1 << 24 {
            return Err(Error::shape(OP, &[("x", self)], "an image has less than 2^24 pixels"));
        }
        dispatch_real!(OP, [("x", self)], T => {
            let shape = [pool.n, out[0], out[1], pool.c];
            let mut pixel = vec![0; shape.iter().product()];
            let y = {
                let x = self.read::<T>()?;
                Tensor::build(shape, |y: &mut [T]| pool.max_forward(&x, y, &mut pixel))?
            };
            Ok(y.with_composed_backward(OP, &[self], || {
                let from = *self.shape();
                move |grad: Tensor, _: &[bool]| {
                    if is_tracked(&[&grad]) {
                        return Ok(vec![Some(scatter_to_argmax(&pool, &pixel, &grad)?)]);
                    }
                    let dy = grad.read::<T>()?;
                    Ok(vec![Some(Tensor::build(from, |dx: &mut [T]| pool.max_backward(&dy, &pixel, dx))?)])
                }
            }))
        })
    }

    fn adaptive_max_pool2d_gpu(&self, on: &OnGpu, pool: AdaptivePool) -> Result<Tensor> {
        const OP: &str = "adaptive_max_pool2d";
        let shape = [pool.n, pool.out[0], pool.out[1], pool.c];
        // The number of a pixel takes the room of a float.
        let chosen = on.empty(shape, DType::F32)?;
        let y = on.build(shape, self.dtype(), |y| {
            cuda::adaptive_pool::max_forward(
                &on.gpu,
                &pool,
                self.device_view().slice(),
                y,
                chosen.device_view().slice(),
            )
        })?;
        Ok(y.with_composed_backward(OP, &[self], || {
            let from = *self.shape();
            move |grad: Tensor, _: &[bool]| {
                if is_tracked(&[&grad]) {
                    let pixel: Vec<u32> = chosen.read::<f32>()?.iter().map(|n| n.to_bits()).collect();
                    return Ok(vec![Some(scatter_to_argmax(&pool, &pixel, &grad)?)]);
                }
                let operands = [("grad", &grad)];
                let on = OnGpu::for_backward(OP, &operands)?;
                let dx = on.build(from, grad.dtype(), |dx| {
                    let (dy, chosen) = (grad.device_view(), chosen.device_view());
                    cuda::adaptive_pool::max_backward(&on.gpu, &pool, dy.slice(), chosen.slice(), dx)
                })?;
                Ok(vec![Some(dx)])
            }
        }))
    }

    fn adaptive_pool(&self, op: &'static str, out: [usize; 2]) -> Result<AdaptivePool> {
        match *self.dims() {
            [n, h, w, c] if h * w * c > 0 && out[0] * out[1] > 0 => {
                Ok(AdaptivePool { n, size: [h, w], out, c })
            }
            _ => {
                let why = format!("needs images [n, h, w, c] with pixels, and a size with pixels: {out:?}");
                Err(Error::shape(op, &[("x", self)], why))
            }
        }
    }

    /// One vector an image: `[n, h, w, c]` to `[n, c]`, or `[n, 2c]` for the kinds that concatenate.
    pub fn global_pool(&self, kind: GlobalPool) -> Result<Tensor> {
        let vector = |y: Tensor| y.flatten(1);
        let avg = || vector(self.adaptive_avg_pool2d([1, 1])?);
        let max = || vector(self.adaptive_max_pool2d([1, 1])?);
        let shared = || self.global_amax();
        match kind {
            GlobalPool::Avg => avg(),
            GlobalPool::Max => max(),
            GlobalPool::FastMax => shared(),
            GlobalPool::AvgMax => avg()?.add(&max()?)?.mul_scalar(0.5),
            GlobalPool::FastAvgMax => avg()?.add(&shared()?)?.mul_scalar(0.5),
            GlobalPool::CatAvgMax => Tensor::concat(&[&avg()?, &max()?], 1),
            GlobalPool::FastCatAvgMax => Tensor::concat(&[&avg()?, &shared()?], 1),
        }
    }

    /// The maximum of each image, `[n, c]`, whose gradient equal pixels share.
    fn global_amax(&self) -> Result<Tensor> {
        if self.is_half_on_cpu() {
            return self.widened()?.global_amax()?.rounded_as(self);
        }
        let y = self.detach().adaptive_max_pool2d([1, 1])?.flatten(1)?;
        Ok(y.clone().with_composed_backward("global_pool", &[self], || {
            let x = self.detach();
            move |grad: Tensor, _: &[bool]| {
                let (n, c) = (grad.dims()[0], grad.dims()[1]);
                if is_tracked(&[&grad]) {
                    let largest = x.equal(&y.reshape([n, 1, 1, c])?)?;
                    let share = grad.reshape([n, 1, 1, c])?.div(&largest.sum(&[1, 2], true)?)?;
                    return Ok(vec![Some(largest.mul(&share)?)]);
                }
                let dx = match OnGpu::of("global_pool", &[("x", &x), ("grad", &grad)])? {
                    Some(on) => on.build(*x.shape(), x.dtype(), |dx| {
                        let held = [&x, &y, &grad].map(Tensor::device_view);
                        let [x, y, dy] = held.each_ref().map(|t| t.slice());
                        cuda::adaptive_pool::amax_backward(&on.gpu, c, x, y, dy, dx)
                    }),
                    None => dispatch_real!("global_pool", [("x", &x)], T => {
                        let (x_data, y, dy) = (x.read::<T>()?, y.read::<T>()?, grad.read::<T>()?);
                        Tensor::build(*x.shape(), |dx: &mut [T]| amax_backward(&x_data, &y, &dy, c, dx))
                    }),
                }?;
                Ok(vec![Some(dx)])
            }
        }))
    }
}

/// The gradient of [`Tensor::adaptive_max_pool2d`] as operations: each window's goes to the pixel that it chose.
fn scatter_to_argmax(pool: &AdaptivePool, pixel: &[u32], dy: &Tensor) -> Result<Tensor> {
    let AdaptivePool { n, size: [h, w], out, c } = *pool;
    let windows = [n, out[0] * out[1], c];
    let pixel = pixel.iter().map(|p| i64::from(*p)).collect();
    let pixel = Tensor::from_vec(pixel, windows)?.to_device(&dy.device())?;
    dy.reshape(windows)?.scatter_add(1, &pixel, [n, h * w, c].into())?.reshape([n, h, w, c])
}
