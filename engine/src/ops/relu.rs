//! Rectified linear unit.
use crate::cpu;
use crate::{Result, Tensor};

impl Tensor {
    /// `max(x, 0)`; the gradient at 0 is 0, as in PyTorch. Any shape; f32, f64.
    pub fn relu(&self) -> Result<Tensor> {
        let y = dispatch_real!("relu", [("x", self)], T => {
            let x = self.read::<T>()?;
            Tensor::build(*self.shape(), |y: &mut [T]| cpu::relu::forward(&x, y))
        })?;
        Ok(y.clone().recorded("relu", &[self], || {
            // The output is kept, not the input: the next operation keeps it anyway.
            let y = y;
            move |grad: Tensor, _: &[bool]| {
                let dx = dispatch_real!("relu", [("x", &y)], T => {
                    let (y, dy) = (y.read::<T>()?, grad.read::<T>()?);
                    Tensor::build(*grad.shape(), |dx: &mut [T]| cpu::relu::backward(&y, &dy, dx))
                })?;
                Ok(vec![Some(dx)])
            }
        }))
    }
}
