//! Functions of libnccl used by the engine.
use super::LIBRARY_NAMES;
use crate::cuda::LibraryError;
use crate::cuda::library::{c_functions, open};
use cudarc::driver::sys::CUstream;
use cudarc::nccl::sys;
use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

pub(super) const SUCCESS: i32 = 0;
pub(super) const IN_PROGRESS: i32 = 7;

const NCCL: &str = "NCCL";
const REMEDY: &str =
    "install NCCL 2.14 or newer (pip: nvidia-nccl-cu13) and put its folder on LD_LIBRARY_PATH";

c_functions! {
    /// NCCL's communicators and collective operations. A communicator is an opaque pointer.
    struct NcclApi {
        error_string = ncclGetErrorString(i32) -> *const c_char;
        last_error = ncclGetLastError(*mut c_void) -> *const c_char;
        unique_id = ncclGetUniqueId(*mut sys::ncclUniqueId) -> i32;
        init = ncclCommInitRankConfig(*mut *mut c_void, i32, sys::ncclUniqueId, i32, *const sys::ncclConfig_t) -> i32;
        async_error = ncclCommGetAsyncError(*mut c_void, *mut i32) -> i32;
        finalize = ncclCommFinalize(*mut c_void) -> i32;
        destroy = ncclCommDestroy(*mut c_void) -> i32;
        abort = ncclCommAbort(*mut c_void) -> i32;
        all_reduce = ncclAllReduce(u64, u64, usize, sys::ncclDataType_t, sys::ncclRedOp_t, *mut c_void, CUstream) -> i32;
        broadcast = ncclBroadcast(u64, u64, usize, sys::ncclDataType_t, i32, *mut c_void, CUstream) -> i32;
        all_gather = ncclAllGather(u64, u64, usize, sys::ncclDataType_t, *mut c_void, CUstream) -> i32;
    }
}

impl NcclApi {
    /// Returns NCCL; opens it at the first call.
    pub(super) fn get() -> Result<&'static NcclApi, LibraryError> {
        static API: OnceLock<NcclApi> = OnceLock::new();
        if let Some(api) = API.get() {
            return Ok(api);
        }
        let api = NcclApi::bind(open(NCCL, &LIBRARY_NAMES, REMEDY)?, NCCL, REMEDY)?;
        Ok(API.get_or_init(|| api))
    }

    /// NCCL's texts for a status other than success.
    pub(super) fn describe(&self, status: i32) -> String {
        // SAFETY: the function takes any status.
        let (status, last) = (text(unsafe { (self.error_string)(status) }), self.last_error());
        if last.is_empty() { format!("NCCL: {status}") } else { format!("NCCL: {status}: {last}") }
    }

    /// NCCL's message about its last problem; empty without any.
    pub(super) fn last_error(&self) -> String {
        // SAFETY: the function takes a null communicator.
        text(unsafe { (self.last_error)(std::ptr::null_mut()) })
    }
}

fn text(pointer: *const c_char) -> String {
    match pointer.is_null() {
        true => String::new(),
        // SAFETY: NCCL returns NUL-terminated strings, which are copied before its next call on this thread.
        false => unsafe { CStr::from_ptr(pointer) }.to_string_lossy().trim().replace('\n', " "),
    }
}
