//! Which of NVIDIA's libraries this machine has: their versions, and where they were found.
use fornax_kernels::library;
use std::ffi::c_int;

/// A library that CUDA devices need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryReport {
    /// What it is called.
    pub name: &'static str,
    /// Its version and where it was found; why it cannot be used, and how to get it, otherwise.
    pub found: std::result::Result<(String, String), String>,
}

/// The driver, NVRTC, cuBLASLt and cuDNN of this machine.
pub fn libraries() -> Vec<LibraryReport> {
    let report =
        |name, names: &[&str], remedy: &str, version: &dyn Fn(&libloading::Library) -> Option<String>| {
            let found =
                library::open(names).map_err(|why| format!("{why}; {remedy}")).and_then(|(opened, path)| {
                    let version =
                        version(&opened).ok_or_else(|| format!("it does not tell its version; {remedy}"))?;
                    Ok((version, path.display().to_string()))
                });
            LibraryReport { name, found }
        };
    vec![
        report("driver", &["libcuda.so.1", "libcuda.so"], "install NVIDIA's driver", &|library| {
            let version = written(library, b"cuDriverGetVersion")?;
            Some(format!("for CUDA {}.{}", version / 1000, version % 1000 / 10))
        }),
        report(
            "NVRTC",
            &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
            "pip install nvidia-cuda-nvrtc",
            &|library| {
                let (mut major, mut minor) = (0, 0);
                // SAFETY: the C header's type; the function writes two numbers.
                let status = unsafe {
                    let version = library
                        .get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(b"nvrtcVersion")
                        .ok()?;
                    version(&mut major, &mut minor)
                };
                (status == 0).then(|| format!("{major}.{minor}"))
            },
        ),
        report(
            "cuBLASLt",
            &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
            "pip install nvidia-cublas",
            &|library| three_parts(returned(library, b"cublasLtGetVersion")?),
        ),
        report("cuDNN", &["libcudnn.so.9", "libcudnn.so"], "pip install nvidia-cudnn-cu13", &|library| {
            three_parts(returned(library, b"cudnnGetVersion")?)
        }),
    ]
}

/// 10000 major + 100 minor + patch, as NVIDIA's libraries count.
fn three_parts(version: usize) -> Option<String> {
    Some(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
}

fn returned(library: &libloading::Library, symbol: &[u8]) -> Option<usize> {
    // SAFETY: the C header's type, without preconditions.
    unsafe { library.get::<unsafe extern "C" fn() -> usize>(symbol).ok().map(|version| version()) }
}

fn written(library: &libloading::Library, symbol: &[u8]) -> Option<c_int> {
    let mut version = 0;
    // SAFETY: the C header's type; the function writes one number.
    let status =
        unsafe { library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(symbol).ok()?(&mut version) };
    (status == 0).then_some(version)
}
