//! Resizing images by interpolation.
use super::gpu::OnGpu;
use crate::cpu::resample::resample;
use crate::resampling::{Interpolation, Resampling};
use crate::window::MAX_SIDE;
use crate::{Error, Result, Shape, Tensor, cuda};

impl Tensor {
    /// Resizes images `[n, h, w, c]` to `[n, size[0], size[1], c]`, as PyTorch's `interpolate`. f32, f16, bf16; f64 on the CPU.
    pub fn interpolate(&self, size: [usize; 2], how: Interpolation) -> Result<Tensor> {
        self.resample("interpolate", size, |inputs, outputs| Resampling::interpolation(inputs, outputs, how))
    }

    /// Resamples both axes of images to `size`, each by the matrix `axis(inputs, outputs)`.
    pub(super) fn resample(
        &self,
        op: &'static str,
        size: [usize; 2],
        axis: impl Fn(usize, usize) -> Resampling,
    ) -> Result<Tensor> {
        let &[n, h, w, c] = self.dims() else {
            return Err(Error::shape(op, &[("x", self)], "needs images [n, h, w, c]"));
        };
        let is_side = |side: usize| (1..=MAX_SIDE).contains(&side);
        if c == 0 || ![h, w, size[0], size[1]].into_iter().all(is_side) {
            let why =
                format!("the sides of images and output must be 1 to 2^31 - 1; the output size is {size:?}");
            return Err(Error::shape(op, &[("x", self)], why));
        }
        Shape::new(&[n, size[0], size[1], c])?;
        self.resampled(op, axis(h, size[0]), axis(w, size[1]))
    }

    /// Resamples images `[n, h, w, c]` along both axes.
    pub(super) fn resampled(
        &self,
        op: &'static str,
        vertical: Resampling,
        horizontal: Resampling,
    ) -> Result<Tensor> {
        if self.is_half_on_cpu() {
            return self.widened()?.resampled(op, vertical, horizontal)?.rounded_as(self);
        }
        let (n, c) = (self.dims()[0], self.dims()[3]);
        let shape = [n, vertical.rows().len(), horizontal.rows().len(), c];
        let y = match OnGpu::of(op, &[("x", self)])? {
            Some(on) => on.build(shape, self.dtype(), |y| {
                cuda::interpolate::resample(&on.gpu, &vertical, &horizontal, c, self.device_view().slice(), y)
            }),
            None => dispatch_real!(op, [("x", self)], T => {
                let x = self.read::<T>()?;
                Tensor::build(shape, |y: &mut [T]| resample(&vertical, &horizontal, c, &x, y))
            }),
        }?;
        Ok(y.with_composed_backward(op, &[self], || {
            move |grad: Tensor, _: &[bool]| {
                Ok(vec![Some(grad.resampled(op, vertical.transposed(), horizontal.transposed())?)])
            }
        }))
    }
}
