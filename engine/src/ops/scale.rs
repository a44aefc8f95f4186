//! Multiplication by a number.
use crate::cpu::parallel::for_each_piece;
use crate::{Element, Result, Tensor};

impl Tensor {
    /// `x * factor`, with the factor rounded to the dtype. f32, f64.
    pub fn scale(&self, factor: f64) -> Result<Tensor> {
        let y = dispatch_real!("scale", [("x", self)], T => {
            let x = self.read::<T>()?;
            let factor = T::from_f64(factor);
            Tensor::build(*self.shape(), |y: &mut [T]| for_each_piece(y, |start, y| {
                for (y, x) in y.iter_mut().zip(&x[start..]) {
                    *y = *x * factor;
                }
            }))
        })?;
        Ok(y.recorded("scale", &[self], || {
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.scale(factor)?)])
        }))
    }
}
