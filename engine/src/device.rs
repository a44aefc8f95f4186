//! Where a tensor lives.
use crate::{Error, Operands, Result};
use std::fmt;

/// The device that holds a tensor and computes on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Device {
    /// The processor and its memory.
    #[default]
    Cpu,
    /// The CUDA device of that number.
    Cuda(usize),
}

impl Device {
    /// The fastest usable device of this machine: the first CUDA device when a driver answers, else the CPU.
    pub fn best() -> Device {
        if crate::cuda::devices().is_ok() { Device::Cuda(0) } else { Device::Cpu }
    }

    /// The first of `count` CUDA devices that this machine's processor emulates. It must be asked for before any other CUDA
    /// device: the emulation takes the driver's place for the whole process.
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

    /// Waits until all work queued on the device is done, and reports what failed in it.
    pub fn synchronize(&self) -> Result<()> {
        let Device::Cuda(ordinal) = *self else { return Ok(()) };
        let gpu = crate::cuda::Gpu::get(ordinal);
        gpu.and_then(|gpu| gpu.synchronize()).map_err(|e| e.with_op_context("synchronize", *self, &[]))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}
