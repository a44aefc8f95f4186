//! Functions of libcudnn used by the engine.
use crate::cuda::LibraryError;
use crate::cuda::library::versions::check_library;
use crate::cuda::library::{c_functions, open};
use cudarc::cudnn::sys;
use cudarc::driver::DriverError;
use std::ffi::{c_char, c_void};
use std::sync::OnceLock;

const CUDNN: &str = "cuDNN";
const REMEDY: &str = "install cuDNN 9 (pip: nvidia-cudnn-cu13) and put its folder on LD_LIBRARY_PATH";
const SUCCESS: i32 = 0;

c_functions! {
    /// cuDNN's handle, backend and error functions. A status is an integer: 1xxx not initialised, 2xxx bad parameter,
    /// 3xxx not supported, 4xxx internal, 5xxx execution.
    struct CudnnApi {
        version = cudnnGetVersion() -> usize;
        cuda_version = cudnnGetCudartVersion() -> usize;
        last_error = cudnnGetLastErrorString(*mut c_char, usize);
        create = cudnnCreate(*mut *mut c_void) -> i32;
        destroy = cudnnDestroy(*mut c_void) -> i32;
        set_stream = cudnnSetStream(*mut c_void, *mut c_void) -> i32;
        create_descriptor = cudnnBackendCreateDescriptor(sys::cudnnBackendDescriptorType_t, *mut *mut c_void) -> i32;
        destroy_descriptor = cudnnBackendDestroyDescriptor(*mut c_void) -> i32;
        set_attribute = cudnnBackendSetAttribute(
            *mut c_void, sys::cudnnBackendAttributeName_t, sys::cudnnBackendAttributeType_t, i64, *const c_void
        ) -> i32;
        get_attribute = cudnnBackendGetAttribute(
            *mut c_void, sys::cudnnBackendAttributeName_t, sys::cudnnBackendAttributeType_t, i64, *mut i64, *mut c_void
        ) -> i32;
        finalize = cudnnBackendFinalize(*mut c_void) -> i32;
        execute = cudnnBackendExecute(*mut c_void, *mut c_void, *mut c_void) -> i32;
    }
}

impl CudnnApi {
    /// Returns cuDNN; opens it at the first call, together with the two libraries that it opens by name, of its own CUDA version. Without
    /// cuBLASLt it aborts the process; without NVRTC, or with one of another CUDA version, it lacks its run-time-compiled engines.
    pub(super) fn get() -> Result<&'static CudnnApi, LibraryError> {
        static API: OnceLock<CudnnApi> = OnceLock::new();
        if let Some(api) = API.get() {
            return Ok(api);
        }
        let cudnn = open(CUDNN, &["libcudnn.so.9", "libcudnn.so"], REMEDY)?;
        let api = CudnnApi::bind(cudnn, CUDNN, REMEDY)?;
        // SAFETY: the function has no preconditions.
        let cuda = unsafe { (api.cuda_version)() };
        check_library(CUDNN, cuda as i32, "nvidia-cudnn")?;
        let blas = "cuDNN needs it: install cuBLAS of the CUDA that cuDNN was built for (pip: nvidia-cublas)";
        let nvrtc =
            "cuDNN needs it: install NVRTC of the CUDA that cuDNN was built for (pip: nvidia-cuda-nvrtc)";
        let [cublaslt_name, nvrtc_name] = companions(cuda);
        let needed = [open("cuBLASLt", &[&cublaslt_name], blas)?, open("NVRTC", &[&nvrtc_name], nvrtc)?];
        // They must stay open: cuDNN looks for them when heuristics first run.
        std::mem::forget(needed);
        Ok(API.get_or_init(|| api))
    }

    /// Returns an error unless `status` is success; `call` describes the call.
    pub(super) fn check(&self, status: i32, call: impl FnOnce() -> String) -> Result<(), LibraryError> {
        if status == SUCCESS {
            return Ok(());
        }
        let mut text = [0u8; 512];
        // SAFETY: the buffer has the given length; the library writes a NUL-terminated string.
        unsafe { (self.last_error)(text.as_mut_ptr().cast(), text.len()) };
        let length = text.iter().position(|&b| b == 0).unwrap_or(text.len());
        let message = String::from_utf8_lossy(&text[..length]).trim().replace('\n', " ");
        Err(LibraryError::Call { library: CUDNN, call: call(), status, message })
    }
}

/// File names of cuBLASLt and NVRTC that a cuDNN built for a CUDA version, 1000 major + 10 minor, opens.
fn companions(cuda: usize) -> [String; 2] {
    ["libcublasLt.so", "libnvrtc.so"].map(|name| format!("{name}.{}", cuda / 1000))
}

/// True for an error after which nothing may be tried: one of the driver. After an error of cuDNN, whose status 5xxx may be that of a kernel
/// or only of an engine, the state of the device decides.
pub(super) fn is_fault(error: &LibraryError) -> bool {
    match error {
        LibraryError::Call { library, .. } => *library != CUDNN,
        LibraryError::Unsupported { .. } | LibraryError::Workspace { .. } => false,
        _ => true,
    }
}

/// Error of a driver call.
pub(super) fn driver_error(call: &str, error: DriverError) -> LibraryError {
    let message = fornax_kernels::emulator::take_error().unwrap_or_else(|| error.to_string());
    LibraryError::Call { library: "CUDA", call: call.into(), status: error.0 as i32, message }
}

/// Error for a problem that no engine supports.
pub(super) fn unsupported(what: impl ToString) -> LibraryError {
    LibraryError::Unsupported { library: CUDNN, what: what.to_string() }
}

/// Error for a problem without a plan during a capture.
pub(super) fn unplanned(what: impl ToString) -> LibraryError {
    LibraryError::Unplanned { library: CUDNN, what: what.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companions_have_the_major_version_of_cudnns_cuda() {
        assert_eq!(companions(12_090), ["libcublasLt.so.12", "libnvrtc.so.12"]);
        assert_eq!(companions(13_000), ["libcublasLt.so.13", "libnvrtc.so.13"]);
    }
}
