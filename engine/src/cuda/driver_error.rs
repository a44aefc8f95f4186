//! Errors of the CUDA driver.
use super::CudaError;
use cudarc::driver::{DriverError, sys::CUresult};
use std::fmt;

impl CudaError {
    /// Error of a driver call: the emulated device's message, or the text and name of the driver's error code.
    pub(crate) fn from_driver(call: impl fmt::Display, error: DriverError) -> CudaError {
        let text = |s: std::result::Result<&std::ffi::CStr, DriverError>| {
            s.map_or_else(|_| String::from("unknown error"), |s| s.to_string_lossy().into_owned())
        };
        let why = match fornax_kernels::emulator::take_error() {
            Some(message) => format!("{call}: {message}"),
            None => format!("{call}: {} ({})", text(error.error_string()), text(error.error_name())),
        };
        CudaError { why, bytes: None }
    }

    /// Error of an allocation of `bytes`.
    pub(crate) fn from_allocation(bytes: usize, error: DriverError) -> CudaError {
        let bytes = (error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY).then_some(bytes);
        CudaError { bytes, ..CudaError::from_driver("allocating memory", error) }
    }
}
