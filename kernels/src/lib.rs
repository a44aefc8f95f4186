//! The CUDA kernels of Fornax: their sources, how they are compiled and cached, and an emulated device that runs them on a
//! machine without a GPU.

#[cfg(target_os = "linux")]
pub mod emulator;
