//! Versions and paths of NVIDIA's libraries on this machine.
use crate::cuda::LibraryInfo;
use fornax_kernels::library;
use std::ffi::c_int;

/// Describes the driver, NVRTC, cuBLASLt, cuDNN and NCCL of this machine.
pub fn libraries() -> Vec<LibraryInfo> {
    let info =
        |name, names: &[&str], remedy: &str, version: &dyn Fn(&libloading::Library) -> Option<String>| {
            let found = library::open(&library::for_driver(names))
                .map_err(|why| format!("{why}; {remedy}"))
                .and_then(|(opened, path)| {
                    let version = version(&opened)
                        .ok_or_else(|| format!("its version cannot be determined; {remedy}"))?;
                    Ok((version, path.display().to_string()))
                });
            LibraryInfo { name, found }
        };
    vec![
        info("driver", &["libcuda.so.1", "libcuda.so"], "install NVIDIA's driver", &|library| {
            let version = version_by_pointer(library, b"cuDriverGetVersion")?;
            Some(format!("for CUDA {}.{}", version / 1000, version % 1000 / 10))
        }),
        info(
            "NVRTC",
            &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
            "pip install nvidia-cuda-nvrtc",
            &|library| {
                let (mut major, mut minor) = (0, 0);
                // SAFETY: the type is that of the C header; the function writes two numbers.
                let status = unsafe {
                    let version = library
                        .get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(b"nvrtcVersion")
                        .ok()?;
                    version(&mut major, &mut minor)
                };
                (status == 0).then(|| format!("{major}.{minor}"))
            },
        ),
        info(
            "cuBLASLt",
            &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
            "pip install nvidia-cublas",
            &|library| format_version(version_by_value(library, b"cublasLtGetVersion")?),
        ),
        info("cuDNN", &["libcudnn.so.9", "libcudnn.so"], "pip install nvidia-cudnn-cu13", &|library| {
            format_version(version_by_value(library, b"cudnnGetVersion")?)
        }),
        info("NCCL", &crate::cuda::nccl::LIBRARY_NAMES, "pip install nvidia-nccl-cu13", &|library| {
            format_version(usize::try_from(version_by_pointer(library, b"ncclGetVersion")?).ok()?)
        }),
    ]
}

/// Formats a version number 10000 major + 100 minor + patch.
fn format_version(version: usize) -> Option<String> {
    Some(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
}

fn version_by_value(library: &libloading::Library, symbol: &[u8]) -> Option<usize> {
    // SAFETY: the type is that of the C header; the function has no preconditions.
    unsafe { library.get::<unsafe extern "C" fn() -> usize>(symbol).ok().map(|version| version()) }
}

fn version_by_pointer(library: &libloading::Library, symbol: &[u8]) -> Option<c_int> {
    let mut version = 0;
    // SAFETY: the type is that of the C header; the function writes one number.
    let status =
        unsafe { library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(symbol).ok()?(&mut version) };
    (status == 0).then_some(version)
}
