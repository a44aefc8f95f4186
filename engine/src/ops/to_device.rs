//! Copies between devices.
use crate::{Device, Result, Tensor};

impl Tensor {
    /// This tensor on a device: itself when it is there already, else a copy. The gradient is copied back. Any dtype; f64 cannot be moved
    /// to a GPU.
    pub fn to_device(&self, device: &Device) -> Result<Tensor> {
        if self.device() == *device {
            return Ok(self.clone());
        }
        Ok(self.copy_to_device(device)?.with_composed_backward("to_device", &[self], || {
            let back = self.device();
            move |grad: Tensor, _: &[bool]| Ok(vec![Some(grad.to_device(&back)?)])
        }))
    }
}
