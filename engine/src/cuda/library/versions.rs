//! Versions that must fit: the driver's CUDA, the libraries', and the device's architecture.
use crate::cuda::{CudaError, GpuInfo, LibraryError, Result};
use fornax_kernels::Nvrtc;
use fornax_kernels::library::driver_version;

/// Oldest CUDA version of a driver, as 1000 major + 10 minor.
const OLDEST_DRIVER: i32 = 12_000;
/// Oldest architecture: bf16 conversions need it.
const OLDEST_CAPABILITY: (u32, u32) = (8, 0);
/// Driver version since which functions of the driver can be asked for the sizes of a kernel's parameters.
const PARAMETER_INFO: i32 = 12_040;

/// Returns an error, with both versions and a remedy, if the driver is too old, NVRTC is of a newer CUDA than the driver, or the device is
/// below compute capability 8.0.
pub(in crate::cuda) fn check(ordinal: usize, info: &GpuInfo) -> Result<()> {
    let (major, minor) = info.capability;
    if info.capability < OLDEST_CAPABILITY {
        return Err(CudaError::new(format!(
            "cuda:{ordinal}, {}, has compute capability {major}.{minor}, but Fornax's kernels need {}.{} (Ampere) or later: use another GPU, \
             or --device cpu",
            info.name, OLDEST_CAPABILITY.0, OLDEST_CAPABILITY.1
        )));
    }
    let driver = driver_version().unwrap_or(OLDEST_DRIVER);
    if driver < OLDEST_DRIVER {
        return Err(CudaError::new(format!(
            "the driver supports CUDA {}, but Fornax needs CUDA {}: update NVIDIA's driver to {} or later",
            text(driver),
            text(OLDEST_DRIVER),
            oldest_driver_release(OLDEST_DRIVER / 1000)
        )));
    }
    // Without NVRTC, kernels that nvcc has compiled run; a launch of another one is an error.
    let Ok(nvrtc) = Nvrtc::shared() else { return Ok(()) };
    let (major, minor) = nvrtc.version();
    Ok(check_library("NVRTC", 1000 * major + 10 * minor, "nvidia-cuda-nvrtc")?)
}

/// Returns an error unless the driver supports a library of that CUDA version. `wheel` is the library's package on PyPI, without its suffix
/// for a CUDA version.
pub(in crate::cuda) fn check_library(
    library: &'static str,
    version: i32,
    wheel: &str,
) -> std::result::Result<(), LibraryError> {
    let Some(driver) = driver_version().filter(|driver| driver / 1000 < version / 1000) else {
        return Ok(());
    };
    let (major, of_driver) = (version / 1000, driver / 1000);
    Err(LibraryError::Driver {
        why: format!(
            "the driver supports CUDA {}, but {library} {} is of CUDA {major}: update NVIDIA's driver to {} or later, or install the library \
             of CUDA {of_driver} (pip install {wheel}-cu{of_driver})",
            text(driver),
            text(version),
            oldest_driver_release(major)
        ),
    })
}

/// True if the driver returns the sizes of a kernel's parameters.
pub(in crate::cuda) fn has_parameter_info() -> bool {
    driver_version().is_some_and(|driver| driver >= PARAMETER_INFO)
}

fn text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Oldest driver for a major version of CUDA, by NVIDIA's compatibility table.
fn oldest_driver_release(cuda: i32) -> u32 {
    if cuda >= 13 { 580 } else { 525 }
}
