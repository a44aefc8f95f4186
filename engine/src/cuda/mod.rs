//! CUDA backend on cudarc: contexts, memory, kernel launches, and a launcher for each operation.
//!
//! A `Gpu` owns one context and one compute stream. Every launch, copy and allocation of the engine uses that stream, so work runs in the
//! order in which it is queued, and memory may be freed as soon as its last use is queued. Uploads and collective operations have streams of
//! their own, ordered with it by events. Launchers are plain functions over slices and
//! shapes; they do not depend on tensors.
pub mod cublaslt;
pub mod cudnn;
pub mod nccl;

pub(crate) mod activation;
pub(crate) mod adaptive_pool;
mod allocator;
mod arena;
mod async_copy;
pub(crate) mod batch_norm;
pub(crate) mod batch_norm_pair;
pub(crate) mod batch_norm_pool;
pub(crate) mod binary;
mod capture_lock;
mod channels;
mod communication;
mod compilation;
mod context;
pub(crate) mod conv2d;
pub(crate) mod conv_norm;
pub(crate) mod copy;
pub(crate) mod cross_entropy;
pub(crate) mod depthwise;
pub(crate) mod dropout;
mod error;
pub(crate) mod fuse;
mod graph;
pub(crate) mod group_norm;
pub(crate) mod implicit_gemm;
pub(crate) mod interpolate;
mod launch;
mod library;
mod library_info;
pub(crate) mod lines;
pub(crate) mod matmul;
mod memory;
pub(crate) mod normalize;
pub(crate) mod optimizer;
pub(crate) mod pack;
mod pinned;
pub(crate) mod pointwise_data_gradient;
pub(crate) mod pool;
pub(crate) mod prepare;
mod profile;
pub(crate) mod reduce;
pub(crate) mod row_norm;
mod self_test;
pub(crate) mod soft_cross_entropy;
pub(crate) mod softmax;
mod staging;
mod stream_event;
mod strided_pair;
pub(crate) mod sync_norm;
#[cfg(test)]
mod tests;
mod timing_event;
pub(crate) mod unary;
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
pub use self_test::{SelfTest, self_tests};

pub(crate) use context::Gpu;
pub(crate) use error::CudaError;
pub(crate) use launch::{Kernel, KernelArg, LaunchConfig, OCCUPANCY_THREADS, args};
pub(crate) use memory::{DeviceBuffer, DeviceSlice};

/// Result of a CUDA call.
pub(crate) type Result<T> = std::result::Result<T, CudaError>;
