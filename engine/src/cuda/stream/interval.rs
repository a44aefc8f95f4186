//! Times of kernels and copies.

/// Time of all launches of one kernel, or of all library calls of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// Name of the kernel or of the library call.
    pub name: String,
    /// Number of launches.
    pub launches: usize,
    /// Seconds on the device. The events around each launch keep kernels from overlapping, so the sum exceeds the time of an unprofiled run.
    pub seconds: f64,
}

/// Stream of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamKind {
    /// Stream of kernels and library calls.
    Compute,
    /// Stream of collective operations.
    Communication,
    /// Stream of uploads.
    Copy,
}

/// Interval in which a kernel, library call, collective operation or upload ran.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInterval {
    /// Name of the kernel or operation.
    pub name: String,
    /// Its stream.
    pub stream: StreamKind,
    /// Seconds from the start of the profile to its start.
    pub start: f64,
    /// Seconds from its start to its end.
    pub seconds: f64,
    /// Bytes of device memory that it read and wrote, as counted by the emulated device in counted mode.
    pub bytes: Option<u64>,
}
