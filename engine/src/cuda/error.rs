//! Error of a driver or library call.
use super::LibraryError;
use crate::{Device, Error, Operands, Tensor};
use std::fmt;

/// Failed call, without the operation that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CudaError {
    /// The call and its error.
    pub(crate) why: String,
    /// Requested bytes, if the device is out of memory.
    pub(crate) bytes: Option<usize>,
}

impl CudaError {
    /// Error with a message.
    pub(crate) fn new(why: impl Into<String>) -> CudaError {
        CudaError { why: why.into(), bytes: None }
    }

    /// Converts to the engine's error of an operation.
    pub(crate) fn with_op_context(
        self,
        op: &'static str,
        device: Device,
        operands: &[(&'static str, &Tensor)],
    ) -> Error {
        match self.bytes {
            Some(requested) => {
                let stats = super::memory_stats(device).unwrap_or_default();
                let total = match device {
                    Device::Cuda(ordinal) => super::Gpu::get(ordinal).ok().map(|gpu| gpu.total_memory()),
                    Device::Cpu => None,
                };
                Error::out_of_memory(device, requested, &stats, total)
            }
            None => Error::Device { op, device, operands: Operands::of(operands), why: self.why },
        }
    }
}

impl From<CudaError> for LibraryError {
    fn from(error: CudaError) -> LibraryError {
        match error.bytes {
            Some(bytes) => LibraryError::Workspace { bytes, why: error.why },
            None => LibraryError::Dependency { why: error.why },
        }
    }
}

impl From<LibraryError> for CudaError {
    fn from(error: LibraryError) -> CudaError {
        let bytes = match error {
            LibraryError::Workspace { bytes, .. } => Some(bytes),
            _ => None,
        };
        CudaError { why: error.to_string(), bytes }
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_allocation_is_out_of_memory() {
        let why = || "binding the context: invalid device context".to_string();
        let error = |library| CudaError::from(library).with_op_context("matmul", Device::Cuda(9), &[]);
        let driver = error(LibraryError::Driver { why: why() });
        assert_eq!(driver.to_string(), format!("matmul on cuda:9: {} (got no tensors)", why()));
        let workspace = error(LibraryError::Workspace { bytes: 7, why: why() });
        assert!(matches!(workspace, Error::OutOfMemory { requested: 7, .. }), "{workspace}");
    }
}
