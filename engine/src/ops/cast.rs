//! Conversion between dtypes.
use super::gpu::OnGpu;
use crate::autograd::AutogradMeta;
use crate::cpu::parallel::for_each_piece;
use crate::{DType, Error, Result, Tensor, cpu, cuda};

impl Tensor {
    /// The same values in another dtype: rounded to nearest even between floats, truncated towards zero and saturated into integers.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let operands = [("x", self)];
        let y = match OnGpu::of_any("to_dtype", &operands)? {
            Some(_) if self.dtype() == DType::F64 || dtype == DType::F64 => {
                Err(Error::dtype("to_dtype", &operands, "all but f64 on a GPU"))
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
        self.with_cast_backward(y)
    }

    /// The same values in another float dtype, as a variable keeps them until it changes: what layers compute with in mixed
    /// precision. Anything but a variable is converted each time.
    pub fn cached_cast(&self, dtype: DType) -> Result<Tensor> {
        let AutogradMeta::Leaf(leaf) = self.autograd_meta() else { return self.to_dtype(dtype) };
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let mut slot = leaf.autocast_cache.lock().unwrap_or_else(|e| e.into_inner());
        let version = self.version();
        let kept = slot.as_ref().filter(|(t, _)| t.dtype() == dtype && t.device() == self.device());
        let copy = match kept {
            Some((copy, of)) if *of == version => copy.clone(),
            // In the same place, which a recorded step may refer to.
            Some((copy, _)) => {
                copy.copy_from(&self.detach().to_dtype(dtype)?)?;
                copy.clone()
            }
            None => self.detach().to_dtype(dtype)?,
        };
        *slot = Some((copy.clone(), version));
        drop(slot);
        self.with_cast_backward(copy)
    }

    /// The copy that [`Tensor::working_copy`] keeps, for an update to write together with the elements.
    pub(crate) fn autocast_cache(&self) -> Option<Tensor> {
        let AutogradMeta::Leaf(leaf) = self.autograd_meta() else { return None };
        let slot = leaf.autocast_cache.lock().unwrap_or_else(|e| e.into_inner());
        slot.as_ref().map(|(copy, _)| copy.clone()).filter(|copy| copy.device() == self.device())
    }

    /// Says that the kept copy is one of the present elements.
    pub(crate) fn mark_autocast_cache_current(&self) {
        let AutogradMeta::Leaf(leaf) = self.autograd_meta() else { return };
        if let Some((_, of)) = leaf.autocast_cache.lock().unwrap_or_else(|e| e.into_inner()).as_mut() {
            *of = self.version();
        }
    }

    /// `y`, this tensor in another dtype, in the graph.
    fn with_cast_backward(&self, y: Tensor) -> Result<Tensor> {
        let (from, dtype) = (self.dtype(), y.dtype());
        if !dtype.is_float() {
            return Ok(y);
        }
        Ok(y.with_composed_backward("to_dtype", &[self], || {
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.to_dtype(from)?)])
        }))
    }
}
