//! CUDA kernels of Fornax: sources, compilation and caching, and an emulated device that runs them on machines without a GPU.
//!
//! A kernel module is one source file, `cu/<module>.cu`. [`module_image`] returns the image that the CUDA driver loads: the fatbin that
//! nvcc compiled when this crate was built, if nvcc was found; otherwise the image that NVRTC compiles at first use for the device's
//! architecture, which is kept in the [`cache`] folder.

pub mod cache;
mod compile;
#[cfg(unix)]
pub mod emulator;
mod kernel_names;
pub mod library;
mod registry;

pub use compile::{CompileTarget, KernelError, Nvrtc};
pub use registry::{KernelModule, KernelSource, kernel_module, kernel_modules};

/// Returns the image of a kernel module for a device of that compute capability (major, minor): a CUBIN, PTX or a fatbin. After
/// [`emulator::load`] it is an image for the emulated device.
pub fn module_image(name: &str, capability: (u32, u32)) -> Result<Vec<u8>, KernelError> {
    let module = kernel_module(name).ok_or_else(|| KernelError::UnknownModule(name.to_string()))?;
    match module.embedded(capability).filter(|_| !is_emulated()) {
        Some(embedded) => Ok(embedded.to_vec()),
        None => compile(module, capability),
    }
}

/// Compiles a source with NVRTC for a device of that compute capability, or returns the image from the [`cache`].
pub fn compile<'a>(
    source: impl Into<KernelSource<'a>>,
    capability: (u32, u32),
) -> Result<Vec<u8>, KernelError> {
    let (source, nvrtc) = (source.into(), Nvrtc::shared()?);
    let target = nvrtc.target(capability);
    if is_emulated() {
        // The emulator's NVRTC has a cache of its own.
        return nvrtc.compile(source, target);
    }
    let key = nvrtc.key(source, target);
    if let Some(image) = cache::load(&key) {
        return Ok(image);
    }
    let image = nvrtc.compile(source, target)?;
    cache::store(&key, &image);
    Ok(image)
}

#[cfg(unix)]
fn is_emulated() -> bool {
    emulator::is_loaded()
}

#[cfg(not(unix))]
fn is_emulated() -> bool {
    false
}
