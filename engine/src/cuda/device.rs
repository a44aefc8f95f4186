//! Choosing CUDA devices, and waiting for them.
use super::Gpu;
use crate::{Device, Error, Operands, Result};

impl Device {
    /// The fastest usable device of this machine: the first CUDA device when a driver answers, else the CPU.
    pub fn best() -> Device {
        if super::devices().is_ok() { Device::Cuda(0) } else { Device::Cpu }
    }

    /// Loads the emulated CUDA driver, which runs kernels on the CPU, with `count` devices, and returns the first one. Call it before
    /// any CUDA device is used: the emulation replaces the driver for the whole process.
    pub fn emulated(count: usize) -> Result<Device> {
        let options = fornax_kernels::emulator::EmulatorOptions { devices: count, ..Default::default() };
        fornax_kernels::emulator::load(&options).map_err(|e| Error::Device {
            op: "emulated device",
            device: Device::Cuda(0),
            operands: Operands(vec![]),
            why: e.to_string(),
        })?;
        Ok(Device::Cuda(0))
    }

    /// Waits for all work queued on the device. Errors when some of it failed.
    pub fn synchronize(&self) -> Result<()> {
        let Device::Cuda(ordinal) = *self else { return Ok(()) };
        let gpu = Gpu::get(ordinal);
        gpu.and_then(|gpu| gpu.synchronize()).map_err(|e| e.with_op_context("synchronize", *self, &[]))
    }
}
