//! Functions of libcudnn used by the engine.
use crate::cuda::library::{LibraryError, c_functions, open, open_newest};
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
    /// Returns cuDNN; opens it at the first call, together with the two libraries that it opens by name. Without cuBLASLt it aborts the
    /// process; without NVRTC it lacks its run-time-compiled engines.
    pub(super) fn get() -> Result<&'static CudnnApi, LibraryError> {
        static API: OnceLock<CudnnApi> = OnceLock::new();
        if let Some(api) = API.get() {
            return Ok(api);
        }
        let cudnn = open(CUDNN, &["libcudnn.so.9", "libcudnn.so"], REMEDY)?;
        let blas = "cuDNN needs it: install cuBLAS of the CUDA that cuDNN was built for (pip: nvidia-cublas)";
        let nvrtc =
            "cuDNN needs it: install NVRTC of the CUDA that cuDNN was built for (pip: nvidia-cuda-nvrtc)";
        // A library of an older CUDA in a system folder is no substitute for the one in a wheel beside cuDNN.
        let needed = [
            open_newest("cuBLASLt", &["libcublasLt.so.13", "libcublasLt.so.12"], blas)?,
            open_newest("NVRTC", &["libnvrtc.so.13", "libnvrtc.so.12"], nvrtc)?,
        ];
        // They must stay open: cuDNN looks for them when heuristics first run.
        std::mem::forget(needed);
        let api = CudnnApi::bind(cudnn, CUDNN, REMEDY)?;
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
