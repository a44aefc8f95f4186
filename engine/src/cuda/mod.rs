//! CUDA backend on cudarc: contexts, memory, kernel launches.
//!
//! A `Gpu` owns one context and one compute stream. Every launch, copy and allocation of the engine uses that stream, so work runs in the
//! order in which it is queued, and memory may be freed as soon as its last use is queued. Uploads and collective operations have streams of
//! their own, ordered with it by events. Copies between host and device (`memory/async_copy`, `memory/pinned`, `nccl`) take tensors.
pub mod cublaslt;
pub mod cudnn;
pub mod nccl;

mod context;
mod device;
mod driver_error;
mod error;
mod info;
pub(crate) mod launch;
mod library;
pub(crate) mod memory;
pub(crate) mod stream;

pub use context::{
    conv_plan_record, devices, launch_count, memory_stats, restore_conv_plans, set_conv_engine_options,
    use_stored_conv_plans,
};
pub use info::{GpuInfo, LibraryInfo};
pub use launch::compilation::compile_in_background;
pub use library::error::{LibraryError, WorkspaceAllocator};
pub use library::info::libraries;
pub use memory::async_copy::{PendingRead, PendingUpload, upload};
pub use memory::pinned::pinned_tensor;
pub use memory::{device_pointer, record_stream};
pub use stream::graph::CudaGraph;
pub use stream::interval::{DeviceInterval, KernelTime, StreamKind};
pub use stream::profile::{KernelProfile, ProfilerRange};

pub(crate) use context::Gpu;
pub(crate) use error::CudaError;
pub(crate) use launch::kernel::{Kernel, KernelArg, LaunchConfig};
pub(crate) use launch::{OCCUPANCY_THREADS, args, int};
pub(crate) use memory::slice::{DeviceBuffer, DeviceSlice};

/// Result of a CUDA call.
pub(crate) type Result<T> = std::result::Result<T, CudaError>;
