//! The CUDA kernels of Fornax: their sources, how they are compiled and cached, and an emulated device that runs them on a
//! machine without a GPU.
//!
//! A family is one source, `cu/<family>.cu`. [`image`] gives what a driver loads: what nvcc made when this crate was built, if it was
//! there; else what NVRTC makes at first use for the device's own architecture, kept in the [`cache`] folder.

pub mod cache;
mod compile;
#[cfg(target_os = "linux")]
pub mod emulator;
pub mod library;
mod names;
mod registry;

pub use compile::{KernelError, Nvrtc, Target};
pub use registry::{Family, Source, family, kernel_modules};

/// What the driver of a device of that compute capability (major, minor) loads for a family: a CUBIN, PTX or a fatbin; for the
/// emulated device, once it is loaded, an image of its own.
pub fn module_image(name: &str, capability: (u32, u32)) -> Result<Vec<u8>, KernelError> {
    let family = family(name).ok_or_else(|| KernelError::UnknownFamily(name.to_string()))?;
    match family.embedded(capability).filter(|_| !is_emulated()) {
        Some(embedded) => Ok(embedded.to_vec()),
        None => compile(family, capability),
    }
}

/// As [`module_image`], for a source that is no family: compiled by NVRTC at its first use, and cached.
pub fn compile<'a>(source: impl Into<Source<'a>>, capability: (u32, u32)) -> Result<Vec<u8>, KernelError> {
    let (source, nvrtc) = (source.into(), Nvrtc::shared()?);
    let target = nvrtc.target(capability);
    if is_emulated() {
        // The stand-in for NVRTC keeps what it compiles itself.
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

#[cfg(target_os = "linux")]
fn is_emulated() -> bool {
    emulator::is_loaded()
}

#[cfg(not(target_os = "linux"))]
fn is_emulated() -> bool {
    false
}
