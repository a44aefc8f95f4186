//! Devices and libraries that do not fit the driver, on emulated devices.
use fornax_engine::{Device, Tensor};
use fornax_kernels::emulator;
use std::sync::{Mutex, PoisonError};

/// Error of the first use of a device with these CUDA versions of driver and libraries, and compute capability.
fn error(ordinal: usize, versions: [i32; 2], capability: [i32; 2]) -> String {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    Device::emulated(3).expect("g++ is installed");
    emulator::set_cuda_versions(versions[0], versions[1]).expect("loaded");
    emulator::set_compute_capability(capability[0], capability[1]).expect("loaded");
    let used = Tensor::from_vec(vec![1.0f32], [1]).and_then(|x| x.to_device(&Device::Cuda(ordinal)));
    emulator::set_cuda_versions(13_000, 13_000).expect("loaded");
    emulator::set_compute_capability(9, 0).expect("loaded");
    used.expect_err("it does not fit").to_string()
}

#[track_caller]
fn assert_names(error: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(error.contains(part), "{part:?} is not in: {error}"));
}

#[test]
fn libraries_of_a_newer_cuda_than_the_driver_are_an_error_with_both_versions() {
    let error = error(0, [12_040, 13_000], [9, 0]);
    assert_names(
        &error,
        &["CUDA 12.4", "NVRTC 13.0", "update NVIDIA's driver to 580", "nvidia-cuda-nvrtc-cu12"],
    );
}

#[test]
fn driver_before_cuda_12_is_an_error_with_the_version_that_is_needed() {
    assert_names(
        &error(1, [11_080, 12_000], [9, 0]),
        &["CUDA 11.8", "CUDA 12.0", "update NVIDIA's driver to 525"],
    );
}

#[test]
fn device_below_compute_capability_8_0_is_an_error() {
    let error = error(2, [13_000, 13_000], [7, 5]);
    assert_names(&error, &["compute capability 7.5", "8.0", "--device cpu"]);
}
