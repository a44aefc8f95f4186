//! Sum of two tensors of the same shape; broadcasting lives with the other arithmetic.
use crate::cpu;
use crate::{Error, Result, Tensor};

impl Tensor {
    /// In place `self += other`, for equal shapes; not recorded.
    pub(crate) fn add_in_place(&self, other: &Tensor) -> Result<()> {
        if self.shape() != other.shape() || self.dtype() != other.dtype() {
            return Err(Error::shape(
                "add",
                &[("self", self), ("other", other)],
                "shapes and dtypes must be equal",
            ));
        }
        dispatch_real!("add", [("self", self), ("other", other)], T => {
            cpu::add::add_assign::<T>(&mut self.write()?, &other.read()?);
            Ok(())
        })
    }

    /// `self + other`.
    pub fn add(&self, other: &Tensor) -> Result<Tensor> {
        if self.shape() != other.shape() || self.dtype() != other.dtype() {
            return Err(Error::shape(
                "add",
                &[("self", self), ("other", other)],
                "shapes and dtypes must be equal",
            ));
        }
        let y = dispatch_real!("add", [("self", self), ("other", other)], T => {
            let (a, b) = (self.read::<T>()?, other.read::<T>()?);
            Tensor::build(*self.shape(), |y: &mut [T]| cpu::add::forward(&a, &b, y))
        })?;
        Ok(y.recorded("add", &[self, other], || {
            |grad: Tensor, needs: &[bool]| Ok(vec![needs[0].then(|| grad.clone()), needs[1].then_some(grad)])
        }))
    }
}
