//! The elementwise pass of a batch norm.
use super::channels::row;
use super::cpu;
use super::cuda::{self as kernel, PassBefore, mask_bytes};
use crate::cpu::stored::Stored;
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, for_stored};
use crate::{Activation, DType, Device, Result, Tensor};
use std::sync::Arc;

/// `activation(x * scale + shift + residual)` for x, [`Channels::saved`](super::Channels::saved) and optionally a residual, and the mask of the
/// activation's derivative if it `stores_mask`.
pub(super) struct Normalize {
    pub(super) c: usize,
    pub(super) activation: Activation,
    pub(super) stores_mask: bool,
    /// The last pass over x was a reduction of it.
    pub(super) follows_reduction: bool,
}

impl Op for Normalize {
    fn spec(&self) -> Spec {
        Spec::new("batch_norm", &["x", "channels", "residual"]).mixed_dtypes().stores_half_on_cpu()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        let mut results = vec![TensorInfo::of(x[0])];
        if self.stores_mask {
            let len = x[0].numel();
            results.push(match x[0].device() {
                Device::Cpu => TensorInfo::new([len.div_ceil(8)], DType::U8)?,
                Device::Cuda(_) => TensorInfo::new([len / self.c, mask_bytes(self.c)], DType::U8)?,
            });
        }
        Ok(results)
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        let (channels, f) = (call.x::<f64>(1)?, self.activation);
        for_stored!(call, T => {
            let [scale, shift] = [2, 3].map(|k| row::<<T as Stored>::Compute>(&channels, k));
            let (x, residual, mut y) = (call.x::<T>(0)?, call.optional(2)?, call.y(0)?);
            match &residual {
                Some(r) if self.stores_mask => {
                    cpu::apply_masked::<T>(&x, &scale, &shift, r, f, &mut y, &mut call.y(1)?)
                }
                _ => cpu::apply::<T>(&x, &scale, &shift, residual.as_deref(), f, &mut y),
            }
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        let (c, f) = (self.c, self.activation);
        let before = if self.follows_reduction { PassBefore::Reduction } else { PassBefore::Convolution };
        match (x.get(2), y.get(1)) {
            (Some(residual), Some(mask)) => {
                kernel::apply_masked(gpu, (x[0], before), c, [x[1], *residual], f, y[0], *mask)
            }
            (residual, _) => kernel::apply(gpu, (x[0], before), c, x[1], residual.copied(), f, y[0]),
        }
    }
}
