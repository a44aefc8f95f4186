//! Adaptive pooling to a given size, and global pooling. Window `i` of `out` over `in` elements covers
//! `floor(i * in / out) .. ceil((i + 1) * in / out)`.
use super::gpu::OnGpu;
use crate::autograd::is_tracked;
use crate::cpu::adaptive_pool::{AdaptivePool, amax_backward};
use crate::resampling::Resampling;
use crate::{DType, Error, Result, Shape, Tensor, cuda};

/// Global pooling type; timm's names in parentheses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobalPool {
    /// Mean (`avg`, `fastavg`).
    Avg,
    /// Maximum; of equal maxima the first gets the gradient (`max`).
    Max,
    /// Mean of `Avg` and `Max` (`avgmax`).
    AvgMax,
    /// Concatenation of `Avg` and `Max`: twice the channels (`catavgmax`).
    CatAvgMax,
    /// Maximum; the gradient is divided evenly among equal maxima (`fastmax`).
    FastMax,
    /// Mean of `Avg` and `FastMax` (`fastavgmax`).
    FastAvgMax,
    /// Concatenation of `Avg` and `FastMax` (`fastcatavgmax`).
    FastCatAvgMax,
}

impl std::str::FromStr for GlobalPool {
    type Err = String;

    /// Parses timm's name.
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
                    "unknown global pooling {name:?}; choose avg, max, avgmax, catavgmax, fastavg, fastmax, fastavgmax or fastcatavgmax"
                ));
            }
        })
    }
}

impl Tensor {
    /// Adaptive average pooling of images `[n, h, w, c]` to `[n, out[0], out[1], c]`. f32, f16, bf16; f64 on the CPU.
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

    /// Adaptive max pooling of images `[n, h, w, c]` to `[n, out[0], out[1], c]`. Of equal maxima the first gets the gradient; NaN
    /// propagates. f32, f16, bf16; f64 on the CPU.
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
            return Err(Error::shape(OP, &[("x", self)], "an image must have less than 2^24 pixels"));
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
        // The index of the pixel as the bits of an f32.
        let argmax = on.empty(shape, DType::F32)?;
        let y = on.build(shape, self.dtype(), |y| {
            cuda::adaptive_pool::max_forward(
                &on.gpu,
                &pool,
                self.device_view().slice(),
                y,
                argmax.device_view().slice(),
            )
        })?;
        Ok(y.with_composed_backward(OP, &[self], || {
            let from = *self.shape();
            move |grad: Tensor, _: &[bool]| {
                if is_tracked(&[&grad]) {
                    let pixel: Vec<u32> = argmax.read::<f32>()?.iter().map(|n| n.to_bits()).collect();
                    return Ok(vec![Some(scatter_to_argmax(&pool, &pixel, &grad)?)]);
                }
                let operands = [("grad", &grad)];
                let on = OnGpu::for_backward(OP, &operands)?;
                let dx = on.build(from, grad.dtype(), |dx| {
                    let (dy, chosen) = (grad.device_view(), argmax.device_view());
                    cuda::adaptive_pool::max_backward(&on.gpu, &pool, dy.slice(), chosen.slice(), dx)
                })?;
                Ok(vec![Some(dx)])
            }
        }))
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

    /// Global pooling: `[n, h, w, c]` to `[n, c]`, or `[n, 2c]` for the types that concatenate. f32, f16, bf16; f64 on the CPU.
    pub fn global_pool(&self, kind: GlobalPool) -> Result<Tensor> {
        let vector = |y: Tensor| y.flatten(1);
        let avg = || vector(self.adaptive_avg_pool2d([1, 1])?);
        let max = || vector(self.adaptive_max_pool2d([1, 1])?);
        let fast_max = || self.global_amax();
        match kind {
            GlobalPool::Avg => avg(),
            GlobalPool::Max => max(),
            GlobalPool::FastMax => fast_max(),
            GlobalPool::AvgMax => avg()?.add(&max()?)?.mul_scalar(0.5),
            GlobalPool::FastAvgMax => avg()?.add(&fast_max()?)?.mul_scalar(0.5),
            GlobalPool::CatAvgMax => Tensor::concat(&[&avg()?, &max()?], 1),
            GlobalPool::FastCatAvgMax => Tensor::concat(&[&avg()?, &fast_max()?], 1),
        }
    }

    /// The maximum of each image, `[n, c]`; the gradient is divided evenly among equal maxima, as in PyTorch's `amax`.
    fn global_amax(&self) -> Result<Tensor> {
        if self.is_half_on_cpu() {
            return self.widened()?.global_amax()?.rounded_as(self);
        }
        let y = self.detach().adaptive_max_pool2d([1, 1])?.flatten(1)?;
        let largest = y.clone();
        Ok(largest
            .clone()
            .with_composed_backward("global_pool", &[self], || {
                let x = self.detach();
                move |grad: Tensor, _: &[bool]| {
                    let (n, c) = (grad.dims()[0], grad.dims()[1]);
                    if is_tracked(&[&grad]) {
                        let largest = x.equal(&y.reshape([n, 1, 1, c])?)?;
                        let each = grad.reshape([n, 1, 1, c])?.div(&largest.sum(&[1, 2], true)?)?;
                        return Ok(vec![Some(largest.mul(&each)?)]);
                    }
                    let dx = match OnGpu::of("global_pool", &[("x", &x), ("grad", &grad)])? {
                        Some(on) => on.build(*x.shape(), x.dtype(), |dx| {
                            let views = [&x, &y, &grad].map(Tensor::device_view);
                            let [x, y, dy] = views.each_ref().map(|t| t.slice());
                            cuda::adaptive_pool::amax_backward(&on.gpu, c, x, y, dy, dx)
                        }),
                        None => dispatch_real!("global_pool", [("x", &x)], T => {
                            let (x_data, y, dy) = (x.read::<T>()?, y.read::<T>()?, grad.read::<T>()?);
                            Tensor::build(*x.shape(), |dx: &mut [T]| amax_backward(&x_data, &y, &dy, c, dx))
                        }),
                    }?;
                    Ok(vec![Some(dx)])
                }
            })
            .with_saved(&[&largest]))
    }
}

/// The gradient of [`Tensor::adaptive_max_pool2d`] as operations: adds each window's gradient to the pixel of its maximum.
fn scatter_to_argmax(pool: &AdaptivePool, pixel: &[u32], dy: &Tensor) -> Result<Tensor> {
    let AdaptivePool { n, size: [h, w], out, c } = *pool;
    let windows = [n, out[0] * out[1], c];
    let pixel = pixel.iter().map(|p| i64::from(*p)).collect();
    let pixel = Tensor::from_vec(pixel, windows)?.to_device(&dy.device())?;
    dy.reshape(windows)?.scatter_add(1, &pixel, [n, h * w, c])?.reshape([n, h, w, c])
}
