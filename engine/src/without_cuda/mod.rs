//! What stands for `cuda` in a build without the feature `cuda`: the same names, over a device that no value can be of. Launchers compile
//! as usual, and the compiler removes them; every attempt to open a device is an error.
#![allow(dead_code, missing_docs, reason = "the items of `cuda`, which documents and uses them")]

pub mod cublaslt;
pub mod cudnn;
mod device;
mod gpu;
pub mod nccl;
mod surface;

#[path = "../cuda/error.rs"]
mod error;
#[path = "../cuda/info.rs"]
mod info;
#[path = "../cuda/stream/interval.rs"]
mod interval;
#[path = "../cuda/library/error.rs"]
mod library_error;

pub(crate) mod launch;
pub(crate) mod memory;

pub use info::{GpuInfo, LibraryInfo};
pub use interval::{DeviceInterval, KernelTime, StreamKind};
pub use library_error::{LibraryError, WorkspaceAllocator};
pub use surface::*;

pub(crate) use error::CudaError;
pub(crate) use gpu::Gpu;
pub(crate) use launch::kernel::{Kernel, KernelArg, LaunchConfig, OCCUPANCY_THREADS, args, int};
pub(crate) use memory::slice::{DeviceBuffer, DeviceSlice};

pub(crate) type Result<T> = std::result::Result<T, CudaError>;

/// The error of every attempt to use a device.
const REASON: &str = "this build has no CUDA: it was made without the Cargo feature `cuda`";
