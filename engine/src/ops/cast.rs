//! Conversion between dtypes.
use super::gpu::OnGpu;
use crate::cpu::parallel::for_each_piece;
use crate::{DType, Element, Error, Result, Tensor, cuda};

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
                on.build(*self.shape(), dtype, |y| cuda::unary::cast(&on.gpu, self.held().slice(), y))
            }
            None => dispatch_any!(self.dtype(), From => {
                let x = self.read::<From>()?;
                dispatch_any!(dtype, To => Tensor::build(*self.shape(), |y: &mut [To]| for_each_piece(y, |start, y| {
                    for (y, x) in y.iter_mut().zip(&x[start..]) {
                        *y = To::from_f64(x.to_f64());
                    }
                })))
            }),
        }?;
        let from = self.dtype();
        if !dtype.is_float() {
            return Ok(y);
        }
        Ok(y.recorded("to_dtype", &[self], || {
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.to_dtype(from)?)])
        }))
    }
}
