//! CUDA backend on cudarc: contexts, memory, kernel launches.
//!
//! A `Gpu` owns one context and one compute stream. Every launch, copy and allocation of the engine uses that stream, so work runs in the
//! order in which it is queued, and memory may be freed as soon as its last use is queued. Uploads and collective operations have streams of
//! their own, ordered with it by events. Copies between host and device (`async_copy`, `pinned`, `nccl`) take tensors.
pub mod cublaslt;
pub mod cudnn;
pub mod nccl;

mod allocator;
mod arena;
pub(crate) mod arguments;
mod async_copy;
mod capture_lock;
pub(crate) mod channels;
mod communication;
mod compilation;
mod constants;
mod context;
pub(crate) mod copy;
mod device;
mod error;
mod graph;
pub(crate) mod launch;
mod library;
mod library_info;
mod memory;
mod pinned;
mod profile;
mod staging;
mod stream_event;
pub(crate) mod strided_pair;
mod timing_event;
mod versions;

pub use async_copy::{PendingRead, PendingUpload, upload};
pub use compilation::compile_in_background;
pub use context::{
    GpuInfo, conv_plan_record, devices, launch_count, memory_stats, restore_conv_plans,
    set_conv_engine_options, use_stored_conv_plans,
};
pub use graph::CudaGraph;
pub use library::{LibraryError, WorkspaceAllocator};
pub use library_info::{LibraryInfo, libraries};
pub use memory::{device_pointer, record_stream};
pub use pinned::pinned_tensor;
pub use profile::{DeviceInterval, KernelProfile, KernelTime, ProfilerRange, StreamKind};

pub(crate) use context::Gpu;
pub(crate) use error::CudaError;
pub(crate) use launch::{Kernel, KernelArg, LaunchConfig, OCCUPANCY_THREADS, args, int};
pub(crate) use memory::{DeviceBuffer, DeviceSlice};

/// Result of a CUDA call.
pub(crate) type Result<T> = std::result::Result<T, CudaError>;
