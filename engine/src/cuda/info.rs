//! Properties of devices and libraries.

/// Properties of a CUDA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// Name.
    pub name: String,
    /// Compute capability, as (major, minor).
    pub capability: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: u32,
    /// Total memory in bytes.
    pub memory: usize,
}

/// Library for CUDA devices. NCCL is required for several GPUs only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryInfo {
    /// Name.
    pub name: &'static str,
    /// Version and path; or the reason why it cannot be used, with a remedy.
    pub found: std::result::Result<(String, String), String>,
}
