//! Casts between dtypes, and the autocast cache of variables.
use super::gpu::OnGpu;
use crate::autograd::{AutogradMeta, Derivative, Gradients, Saved};
use crate::cpu::parallel::for_each_piece;
use crate::{DType, Error, Result, Tensor, cpu, cuda};

impl Tensor {
    /// Casts to another dtype: rounds to nearest even between floats, truncates towards zero and saturates into integers. Any dtype; f64
    /// on the CPU only.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let operands = [("x", self)];
        let y = match OnGpu::of_any("to_dtype", &operands)? {
            Some(_) if self.dtype() == DType::F64 || dtype == DType::F64 => {
                Err(Error::dtype("to_dtype", &operands, "every dtype but f64 on a GPU"))
            }
            Some(on) => {
                on.build(*self.shape(), dtype, |y| cuda::unary::cast(&on.gpu, self.device_view().slice(), y))
            }
            None => dispatch_any!(self.dtype(), From => {
                let x = self.read::<From>()?;
                dispatch_any!(dtype, To => Tensor::build(*self.shape(), |y: &mut [To]| {
                    for_each_piece(y, |start, y| cpu::cast::cast(&x[start..start + y.len()], y))
                }))
            }),
        }?;
        Ok(self.with_cast(y))
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
        Ok(self.with_cast(copy))
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

    /// `y`, the cast of this tensor, in the graph.
    fn with_cast(&self, y: Tensor) -> Tensor {
        match y.dtype().is_float() {
            true => crate::op::with_derivative("to_dtype", &[self], y, Cast),
            false => y,
        }
    }
}

/// Derivative of a cast: the gradient cast back.
struct Cast;

impl Derivative for Cast {
    fn backward(&self, saved: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(dy.to_dtype(saved.dtype(0))?)])
    }

    fn is_cast(&self) -> bool {
        true
    }
}
