//! Choosing devices.
use super::REASON;
use crate::{Device, Error, Operands, Result};

impl Device {
    /// The fastest usable device of this machine: the CPU.
    pub fn best() -> Device {
        Device::Cpu
    }

    /// An error: this build has no emulated device.
    pub fn emulated(_: usize) -> Result<Device> {
        Err(absent("emulated device", Device::Cuda(0)))
    }

    /// Waits for all work queued on the device, which the CPU does not queue.
    pub fn synchronize(&self) -> Result<()> {
        if *self == Device::Cpu { Ok(()) } else { Err(absent("synchronize", *self)) }
    }
}

/// The error of an operation on a device.
pub(super) fn absent(op: &'static str, device: Device) -> Error {
    Error::Device { op, device, operands: Operands(vec![]), why: REASON.into() }
}
