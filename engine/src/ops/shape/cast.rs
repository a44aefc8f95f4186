//! Casts between dtypes, and the autocast cache of variables.
use super::cuda as on_cuda;
use crate::autograd::{AutogradMeta, Derivative, Gradients, Saved};
use crate::cpu::{self, parallel::for_each_piece};
use crate::cuda::{DeviceSlice, Gpu, Result as CudaResult};
use crate::op::{CpuCall, Infos, Op, Spec, TensorInfo, apply, for_any, with_derivative};
use crate::{DType, Device, Error, Result, Tensor};
use std::sync::Arc;

const NAME: &str = "to_dtype";

impl Tensor {
    /// Casts to another dtype: rounds to nearest even between floats, truncates towards zero and saturates into integers. Any dtype; f64
    /// on the CPU only.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        if self.device() != Device::Cpu && (self.dtype() == DType::F64 || dtype == DType::F64) {
            return Err(Error::dtype("to_dtype", &[("x", self)], "every dtype but f64 on a GPU"));
        }
        apply(Cast(dtype), &[self])
    }

    /// Casts to another float dtype, as [`Tensor::to_dtype`], for layers in mixed precision. The cast of a variable is cached until the
    /// variable changes, as by PyTorch's autocast; other tensors are cast each time.
    pub fn cached_cast(&self, dtype: DType) -> Result<Tensor> {
        let AutogradMeta::Leaf(leaf) = self.autograd_meta() else { return self.to_dtype(dtype) };
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let mut slot = leaf.autocast_cache.lock().unwrap_or_else(|e| e.into_inner());
        let version = self.version();
        let cached = slot.as_ref().filter(|(t, _)| t.dtype() == dtype && t.device() == self.device());
        let copy = match cached {
            Some((copy, of)) if *of == version => copy.clone(),
            // In the same memory, which a captured CUDA graph may refer to.
            Some((copy, _)) => {
                copy.copy_from(&self.detach().to_dtype(dtype)?)?;
                copy.clone()
            }
            None => self.detach().to_dtype(dtype)?,
        };
        *slot = Some((copy.clone(), version));
        drop(slot);
        Ok(with_derivative(NAME, &[self], copy, Cast(dtype)))
    }

    /// The cast that [`Tensor::cached_cast`] keeps, for an optimizer update to write together with the elements.
    pub(crate) fn autocast_cache(&self) -> Option<Tensor> {
        let AutogradMeta::Leaf(leaf) = self.autograd_meta() else { return None };
        let slot = leaf.autocast_cache.lock().unwrap_or_else(|e| e.into_inner());
        slot.as_ref().map(|(copy, _)| copy.clone()).filter(|copy| copy.device() == self.device())
    }

    /// Marks the autocast cache as a cast of the current elements.
    pub(crate) fn mark_autocast_cache_current(&self) {
        let AutogradMeta::Leaf(leaf) = self.autograd_meta() else { return };
        if let Some((_, of)) = leaf.autocast_cache.lock().unwrap_or_else(|e| e.into_inner()).as_mut() {
            *of = self.version();
        }
    }
}

/// A cast to a dtype; its gradient is cast back.
struct Cast(DType);

impl Op for Cast {
    fn spec(&self) -> Spec {
        Spec::new(NAME, &["x"]).any_dtype()
    }

    fn results(&self, x: &[&Tensor]) -> Infos {
        Ok(vec![TensorInfo { dtype: self.0, ..TensorInfo::of(x[0]) }])
    }

    fn cpu(&self, call: &CpuCall) -> Result<()> {
        for_any!(call, From => {
            let x = call.x::<From>(0)?;
            crate::dtype::dispatch_any!(self.0, To => for_each_piece(&mut call.y::<To>(0)?, |start, y| {
                cpu::cast::cast(&x[start..start + y.len()], y)
            }))
        })
    }

    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> CudaResult<()> {
        on_cuda::cast(gpu, x[0], y[0])
    }
}

impl Derivative for Cast {
    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(dy.to_dtype(saved.dtype(0))?)])
    }

    fn is_cast(&self) -> bool {
        true
    }
}
