//! Device selection: `--device`.
use crate::error::ErrorKind;
use crate::{Error, Result};
use fornax_engine::{Device, cuda};
use std::fmt;
use std::str::FromStr;

/// Device string of `--device`, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceSpec {
    /// The first CUDA device if there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by its ordinal; `None`: the first one, or that of the rank.
    Cuda(Option<usize>),
    /// The first of this many emulated CUDA devices, whose kernels run on the CPU; for one of several ranks, that of its local rank.
    Emulated(usize),
}

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<DeviceSpec, String> {
        let (name, number) = text.split_once(':').map_or((text, None), |(name, number)| (name, Some(number)));
        let number = number.map(str::parse::<usize>).transpose().ok();
        match (name, number) {
            ("auto", Some(None)) => Ok(DeviceSpec::Auto),
            ("cpu", Some(None)) => Ok(DeviceSpec::Cpu),
            ("cuda", Some(number)) => Ok(DeviceSpec::Cuda(number)),
            ("emulated", Some(number)) if number != Some(0) => Ok(DeviceSpec::Emulated(number.unwrap_or(1))),
            _ => Err("must be auto, cpu, cuda, cuda:N, emulated or emulated:COUNT".into()),
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSpec::Auto => f.write_str("auto"),
            DeviceSpec::Cpu => f.write_str("cpu"),
            DeviceSpec::Cuda(None) => f.write_str("cuda"),
            DeviceSpec::Cuda(Some(ordinal)) => write!(f, "cuda:{ordinal}"),
            DeviceSpec::Emulated(count) => write!(f, "emulated:{count}"),
        }
    }
}

impl DeviceSpec {
    /// Opens the device of a rank on this machine: `auto`, `cuda`, `cuda:0` and `emulated:COUNT` mean the CUDA device of that number.
    pub fn open_for_rank(self, local_rank: usize) -> Result<Device> {
        // Batch systems may show each process a device of its own only.
        let of_rank = || if cuda::devices().is_ok_and(|devices| devices.len() == 1) { 0 } else { local_rank };
        match self {
            DeviceSpec::Auto if matches!(Device::best(), Device::Cuda(_)) => {
                DeviceSpec::Cuda(Some(of_rank())).open()
            }
            DeviceSpec::Cuda(None | Some(0)) => DeviceSpec::Cuda(Some(of_rank())).open(),
            DeviceSpec::Emulated(count) if local_rank >= count => {
                Err(Error::usage(format!("local rank {local_rank} has no device"))
                    .at("--device")
                    .because(format!(
                        "there are {count} emulated devices, and each rank needs one of its own"
                    ))
                    .remedy("pass the number of ranks on this machine, as emulated:COUNT"))
            }
            DeviceSpec::Emulated(_) => self.open().map(|_| Device::Cuda(local_rank)),
            other => other.open(),
        }
    }

    /// Opens the device. Errors if it does not exist or cannot be initialised.
    pub fn open(self) -> Result<Device> {
        let unusable = |why: String| {
            Error::new(ErrorKind::Device, "the device cannot be used")
                .at("--device")
                .because(why)
                .remedy("`fornax doctor` lists what is available; --device cpu works everywhere")
        };
        match self {
            DeviceSpec::Auto => Ok(Device::best()),
            DeviceSpec::Cpu => Ok(Device::Cpu),
            DeviceSpec::Cuda(ordinal) => {
                let ordinal = ordinal.unwrap_or(0);
                let count = cuda::devices().map_err(unusable)?.len();
                if ordinal >= count {
                    return Err(unusable(format!(
                        "cuda:{ordinal} does not exist; this machine has {count} CUDA devices"
                    )));
                }
                Ok(Device::Cuda(ordinal))
            }
            DeviceSpec::Emulated(count) => Device::emulated(count).map_err(|e| unusable(e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_strings_are_parsed() {
        let read = |text: &str| text.parse::<DeviceSpec>().ok();
        assert_eq!(read("auto"), Some(DeviceSpec::Auto));
        assert_eq!(read("cpu"), Some(DeviceSpec::Cpu));
        assert_eq!(
            (read("cuda"), read("cuda:3")),
            (Some(DeviceSpec::Cuda(None)), Some(DeviceSpec::Cuda(Some(3))))
        );
        assert_eq!(
            (read("emulated"), read("emulated:2")),
            (Some(DeviceSpec::Emulated(1)), Some(DeviceSpec::Emulated(2)))
        );
        for wrong in ["", "gpu", "cpu:0", "cuda:", "cuda:x", "emulated:0", "cuda:-1"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
