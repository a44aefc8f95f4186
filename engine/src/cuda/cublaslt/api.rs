//! Functions of libcublasLt used by the engine.
use crate::cuda::LibraryError;
use crate::cuda::library::versions::check_library;
use crate::cuda::library::{c_functions, open};
use cudarc::cublaslt::sys;
use fornax_kernels::library::for_driver;
use std::ffi::c_void;
use std::sync::OnceLock;

pub(super) const CUBLASLT: &str = "cuBLASLt";
const REMEDY: &str = "install cuBLAS (pip: nvidia-cublas) and put its folder on LD_LIBRARY_PATH";
const SUCCESS: i32 = 0;
const NOT_SUPPORTED: i32 = 15;
pub(super) const INVALID_VALUE: i32 = 7;
pub(super) const ARCHITECTURE_MISMATCH: i32 = 8;
pub(super) const EXECUTION_FAILED: i32 = 13;
pub(super) const INTERNAL_ERROR: i32 = 14;

/// Heuristics result for one algorithm. cudarc's struct has the status as a Rust enum, which a newer library would break.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct MatmulAlgorithm {
    pub(super) choice: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
    status: i32,
    waves: f32,
    reserved: [i32; 4],
}

impl MatmulAlgorithm {
    pub(super) const EMPTY: MatmulAlgorithm = MatmulAlgorithm {
        choice: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        workspace: 0,
        status: NOT_SUPPORTED,
        waves: 0.0,
        reserved: [0; 4],
    };

    /// Workspace in bytes.
    pub(super) fn workspace(&self) -> usize {
        self.workspace
    }

    pub(super) fn is_usable(&self) -> bool {
        self.status == SUCCESS
    }
}

c_functions! {
    /// cuBLASLt's matmul and its descriptors.
    struct CublasLtApi {
        version = cublasLtGetVersion() -> usize;
        create = cublasLtCreate(*mut *mut c_void) -> i32;
        destroy = cublasLtDestroy(*mut c_void) -> i32;
        create_matmul = cublasLtMatmulDescCreate(*mut *mut c_void, sys::cublasComputeType_t, sys::cudaDataType) -> i32;
        set_matmul = cublasLtMatmulDescSetAttribute(
            *mut c_void, sys::cublasLtMatmulDescAttributes_t, *const c_void, usize
        ) -> i32;
        destroy_matmul = cublasLtMatmulDescDestroy(*mut c_void) -> i32;
        create_layout = cublasLtMatrixLayoutCreate(*mut *mut c_void, sys::cudaDataType, u64, u64, i64) -> i32;
        set_layout = cublasLtMatrixLayoutSetAttribute(
            *mut c_void, sys::cublasLtMatrixLayoutAttribute_t, *const c_void, usize
        ) -> i32;
        destroy_layout = cublasLtMatrixLayoutDestroy(*mut c_void) -> i32;
        create_preference = cublasLtMatmulPreferenceCreate(*mut *mut c_void) -> i32;
        set_preference = cublasLtMatmulPreferenceSetAttribute(
            *mut c_void, sys::cublasLtMatmulPreferenceAttributes_t, *const c_void, usize
        ) -> i32;
        destroy_preference = cublasLtMatmulPreferenceDestroy(*mut c_void) -> i32;
        heuristic = cublasLtMatmulAlgoGetHeuristic(
            *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void, *mut c_void,
            i32, *mut MatmulAlgorithm, *mut i32
        ) -> i32;
        matmul = cublasLtMatmul(
            *mut c_void, *mut c_void, *const c_void, *const c_void, *mut c_void, *const c_void, *mut c_void,
            *const c_void, *const c_void, *mut c_void, *mut c_void, *mut c_void,
            *const sys::cublasLtMatmulAlgo_t, *mut c_void, usize, *mut c_void
        ) -> i32;
    }
}

impl CublasLtApi {
    /// Returns cuBLASLt; opens it at the first call.
    pub(super) fn get() -> Result<&'static CublasLtApi, LibraryError> {
        static API: OnceLock<CublasLtApi> = OnceLock::new();
        if let Some(api) = API.get() {
            return Ok(api);
        }
        let names = for_driver(&["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"]);
        let api = CublasLtApi::bind(open(CUBLASLT, &names, REMEDY)?, CUBLASLT, REMEDY)?;
        // SAFETY: the function has no preconditions. cuBLAS has the version of its CUDA.
        let version = unsafe { (api.version)() };
        check_library(CUBLASLT, (version / 10) as i32, "nvidia-cublas")?;
        Ok(API.get_or_init(|| api))
    }

    /// Returns an error unless `status` is success; `call` describes the call.
    pub(super) fn check(&self, status: i32, call: impl FnOnce() -> String) -> Result<(), LibraryError> {
        let message = match status {
            SUCCESS => return Ok(()),
            NOT_SUPPORTED => return Err(unsupported(call())),
            1 => "not initialised: is there a device?",
            3 => "allocation failed",
            INVALID_VALUE => "invalid value",
            ARCHITECTURE_MISMATCH => "the device's architecture is not supported",
            EXECUTION_FAILED => "execution failed",
            INTERNAL_ERROR => "internal error",
            _ => "",
        };
        Err(LibraryError::Call { library: CUBLASLT, call: call(), status, message: message.into() })
    }
}

/// Error for a problem that cuBLASLt does not support.
pub(super) fn unsupported(what: impl ToString) -> LibraryError {
    LibraryError::Unsupported { library: CUBLASLT, what: what.to_string() }
}
