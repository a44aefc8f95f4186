//! Where a tensor lives.
use std::fmt;

/// The device that holds a tensor and computes on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Device {
    /// The processor and its memory.
    #[default]
    Cpu,
}

impl Device {
    /// The fastest usable device of this machine.
    pub fn best() -> Device {
        Device::Cpu
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
        }
    }
}
