//! The CUDA side, written straight on cudarc: contexts, memory, launches, and a launcher for each operation.
//!
//! A `Gpu` owns one context and one compute stream; every launch, copy and allocation of the engine goes into that stream, so
//! work happens in the order in which it was asked for, and memory may be freed as soon as its last use was queued.
//! Launchers are plain functions over slices and shapes; they know no tensor.
pub mod cublaslt;
pub mod cudnn;

pub(crate) mod activation;
pub(crate) mod adaptive_pool;
pub(crate) mod batch_norm;
pub(crate) mod binary;
mod channels;
mod context;
pub(crate) mod conv2d;
pub(crate) mod conv_norm;
pub(crate) mod convolution;
pub(crate) mod copy;
pub(crate) mod cross_entropy;
pub(crate) mod depthwise;
pub(crate) mod dropout;
mod failure;
pub(crate) mod fuse;
mod graph;
pub(crate) mod group_norm;
pub(crate) mod interpolate;
mod launch;
mod library;
pub(crate) mod lines;
pub(crate) mod matmul;
mod memory;
pub(crate) mod normalize;
pub(crate) mod optimizer;
pub(crate) mod pool;
pub(crate) mod prepare;
pub(crate) mod reduce;
mod report;
pub(crate) mod row_norm;
pub(crate) mod soft_cross_entropy;
pub(crate) mod softmax;
mod staging;
#[cfg(test)]
mod tests;
mod turns;
pub(crate) mod unary;
mod walk;

pub use context::{GpuInfo, devices, launch_count, memory_stats, set_conv_plan_choice};
pub use graph::CudaGraph;
pub use library::{LibraryError, Workspace};
pub use report::{LibraryReport, libraries};

pub(crate) use context::Gpu;
pub(crate) use failure::CudaError;
pub(crate) use launch::{Arg, Grid, args};
pub(crate) use memory::{DeviceBuffer, DeviceSlice};

/// The result of a call that a GPU may refuse.
pub(crate) type Result<T> = std::result::Result<T, CudaError>;
