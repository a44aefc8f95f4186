//! Product and cumulative sum along an axis.
use super::gpu::OnGpu;
use crate::cpu::lines::{self, Lines};
use crate::{Result, Tensor, cuda};

impl Tensor {
    /// Product along an axis; its gradient is exact where elements are zero. First derivatives only. f32, f16, bf16; f64 on the CPU.
    pub fn prod(&self, axis: usize) -> Result<Tensor> {
        self.check_axis("prod", axis)?;
        if self.is_half_on_cpu() {
            return self.widened()?.prod(axis)?.rounded_as(self);
        }
        let lines = Lines::new(self.shape(), axis);
        let shape = self.shape().without(axis);
        let y = match OnGpu::of("prod", &[("x", self)])? {
            Some(on) => on.build(shape, self.dtype(), |y| {
                cuda::lines::prod(&on.gpu, lines, self.device_view().slice(), y)
            }),
            None => dispatch_real!("prod", [("x", self)], T => {
                let x = self.read::<T>()?;
                Tensor::build(shape, |y: &mut [T]| lines::prod(lines, &x, y))
            }),
        }?;
        Ok(y.with_backward("prod", &[self], || {
            let x = self.detach();
            move |grad: Tensor, _: &[bool]| {
                let dx = match OnGpu::of("prod", &[("x", &x), ("grad", &grad)])? {
                    Some(on) => on.build(*x.shape(), x.dtype(), |dx| {
                        cuda::lines::prod_backward(&on.gpu, lines, x.device_view().slice(), grad.device_view().slice(), dx)
                    }),
                    None => dispatch_real!("prod", [("x", &x)], T => {
                        let (x_data, dy) = (x.read::<T>()?, grad.read::<T>()?);
                        Tensor::build(*x.shape(), |dx: &mut [T]| lines::prod_backward(lines, &x_data, &dy, dx))
                    }),
                }?;
                Ok(vec![Some(dx)])
            }
        }))
    }

    /// Cumulative sum along an axis: `y[j] = x[0] + … + x[j]`. f32, f16, bf16; f64 on the CPU.
    pub fn cumsum(&self, axis: usize) -> Result<Tensor> {
        self.cumsum_directed(axis, false)
    }

    fn cumsum_directed(&self, axis: usize, reverse: bool) -> Result<Tensor> {
        self.check_axis("cumsum", axis)?;
        if self.is_half_on_cpu() {
            return self.widened()?.cumsum_directed(axis, reverse)?.rounded_as(self);
        }
        let lines = Lines::new(self.shape(), axis);
        let y = match OnGpu::of("cumsum", &[("x", self)])? {
            Some(on) => on.build(*self.shape(), self.dtype(), |y| {
                cuda::lines::cumsum(&on.gpu, lines, self.device_view().slice(), reverse, y)
            }),
            None => dispatch_real!("cumsum", [("x", self)], T => {
                let x = self.read::<T>()?;
                Tensor::build(*self.shape(), |y: &mut [T]| lines::cumsum(lines, &x, reverse, y))
            }),
        }?;
        Ok(y.with_composed_backward("cumsum", &[self], || {
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.cumsum_directed(axis, !reverse)?)])
        }))
    }
}
