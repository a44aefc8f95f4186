//! Copies between devices.
use crate::autograd::{Derivative, Gradients, Saved};
use crate::op::with_derivative;
use crate::{Device, Result, Tensor};

impl Tensor {
    /// This tensor on a device: itself when it is there already, else a copy. The gradient is copied back. Any dtype; f64 cannot be moved
    /// to a GPU.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        if self.device() == *device {
            return Ok(self.clone());
        }
        let copy = self.copy_to_device(device)?;
        Ok(with_derivative("to_device", &[self], copy, ToDevice { from: self.device() }))
    }
}

struct ToDevice {
    from: Device,
}

impl Derivative for ToDevice {
    fn backward(&self, _: &Saved, dy: Tensor, _: &[bool]) -> Result<Gradients> {
        Ok(vec![Some(dy.to_device(&self.from)?)])
    }
}
