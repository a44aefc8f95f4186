//! Devices of the tests: real ones or the emulated one, by `FORNAX_TEST_DEVICES`.
use crate::heartbeat;
use fornax_engine::Device;
use fornax_kernels::emulator::{self, EmulatorOptions};

/// The devices in `FORNAX_TEST_DEVICES` (default `emulated`), without the CPU, which is the reference. The emulated device replaces the
/// CUDA driver, so it cannot be tested in one process with a real device.
///
/// # Panics
/// When a name is invalid, or the emulated device cannot be loaded.
pub fn devices() -> Vec<Device> {
    devices_with(&EmulatorOptions::default())
}

/// The first of [`devices`], or the emulated device where the list has the CPU alone. `checked` selects the checked mode of the emulated
/// device.
///
/// # Panics
/// As for [`devices`].
pub fn device(checked: bool) -> Device {
    let options = EmulatorOptions { checked, ..EmulatorOptions::default() };
    devices_with(&options).first().copied().unwrap_or_else(|| emulated(&options))
}

fn devices_with(options: &EmulatorOptions) -> Vec<Device> {
    let names = std::env::var("FORNAX_TEST_DEVICES").unwrap_or_else(|_| "emulated".into());
    let (emulates, real) = (names.contains("emulated"), names.contains("cuda"));
    assert!(!(emulates && real), "FORNAX_TEST_DEVICES={names}: emulated and cuda:N need separate runs");
    names
        .split(',')
        .filter(|name| *name != "cpu")
        .map(|name| match name.strip_prefix("cuda:") {
            Some(number) => Device::Cuda(number.parse().expect("cuda:N")),
            None => {
                assert_eq!(
                    name, "emulated",
                    "FORNAX_TEST_DEVICES={names}: unknown device; use cpu, emulated or cuda:N"
                );
                emulated(options)
            }
        })
        .inspect(|device| heartbeat::start_if_wanted(*device))
        .collect()
}

fn emulated(options: &EmulatorOptions) -> Device {
    emulator::load(options).expect("the emulated device");
    Device::Cuda(0)
}
