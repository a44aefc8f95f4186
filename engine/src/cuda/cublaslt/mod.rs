//! GEMM by cuBLASLt: row-major, batched, in f32 (strict or TF32), f16 and bf16, with epilogues for bias, activation and their gradients.
//!
//! cuBLASLt is column-major. A row-major matrix is the transpose of a column-major one, so `D = A B` is computed as `Dᵀ = Bᵀ Aᵀ` with the
//! operands exchanged (`matmul_call`). At the first use of a [`Gemm`], cuBLASLt's heuristics choose an algorithm, which [`CublasLt`] caches.
//! Unsupported GEMMs are cached too; the caller then uses a fallback.
mod api;
mod descriptor;
mod gemm;
mod matmul_call;

use crate::cuda::library::warn;
use crate::cuda::{LibraryError, WorkspaceAllocator};
use api::{
    ARCHITECTURE_MISMATCH, CublasLtApi, EXECUTION_FAILED, INTERNAL_ERROR, INVALID_VALUE, MatmulAlgorithm,
    unsupported,
};
use cudarc::driver::result;
use cudarc::driver::sys::{CUdeviceptr, CUstream, CUstreamCaptureStatus};
use matmul_call::MatmulCall;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

pub use gemm::{Epilogue, Gemm, GemmOperands};

/// Maximum workspace of a GEMM in bytes.
pub const WORKSPACE_LIMIT: usize = 32 << 20;

/// Maximum number of algorithms to try, because one that the heuristics return can still fail.
const MAX_ALGORITHMS: usize = 4;

/// cuBLASLt on one device.
pub struct CublasLt {
    api: &'static CublasLtApi,
    handle: *mut c_void,
    // Algorithm for each GEMM and alignment; `None` if it is unsupported.
    algorithms: Mutex<HashMap<(Gemm, gemm::GemmAlignments), Option<MatmulAlgorithm>>>,
}

// SAFETY: a cuBLASLt handle may be used by any thread, and by several at once.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

impl CublasLt {
    /// Opens cuBLASLt for the current context, which must outlive this value.
    pub fn new() -> Result<CublasLt, LibraryError> {
        let api = CublasLtApi::get()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { (api.create)(&mut handle) };
        api.check(status, || "creating a handle".into())?;
        Ok(CublasLt { api, handle, algorithms: Mutex::default() })
    }

    /// cuBLASLt's version, as 10000 major + 100 minor + patch.
    pub fn version(&self) -> usize {
        // SAFETY: the function has no preconditions.
        unsafe { (self.api.version)() }
    }

    /// Queues a GEMM on `stream`. Returns [`LibraryError::Unsupported`] if cuBLASLt does not support the epilogue, a size is zero, or the
    /// epilogue's operands are not aligned to 16 bytes.
    ///
    /// # Safety
    /// The pointers must be device memory of the GEMM's shapes and dtype, and not used otherwise until the stream has executed it;
    /// `stream` must belong to the context of [`CublasLt::new`], which must be current.
    pub unsafe fn matmul(
        &self,
        gemm: &Gemm,
        operands: GemmOperands,
        stream: CUstream,
        workspace: &mut WorkspaceAllocator,
    ) -> Result<(), LibraryError> {
        if [gemm.rows, gemm.cols, gemm.inner, gemm.batch].contains(&0) {
            return Err(unsupported(format!("empty matrix: {gemm}")));
        }
        // Preferences do not cover their alignment, and an algorithm may read 16 bytes at once.
        if gemm.epilogue != Epilogue::None && !(operands.bias | operands.aux).is_multiple_of(16) {
            return Err(unsupported(format!(
                "bias or auxiliary operand that is not aligned to 16 bytes: {gemm}"
            )));
        }
        let is_gelu = matches!(gemm.epilogue, Epilogue::BiasGeluTanhAux | Epilogue::DgeluTanhBgrad);
        if gemm.aux_stride() != 0 && gemm.batch > 1 || is_gelu && !gemm.cols.is_multiple_of(8) {
            return Err(unsupported(gemm));
        }
        let call = MatmulCall::new(self.api, gemm, operands)?;
        let mut run = |algorithm: &MatmulAlgorithm| {
            let memory: CUdeviceptr = match algorithm.workspace() {
                0 => 0,
                bytes => workspace(bytes)?,
            };
            // SAFETY: the operands are guaranteed by the caller; the workspace has the algorithm's size.
            unsafe { call.run(self.handle, algorithm, memory, stream) }
        };
        let key = (*gemm, operands.alignments());
        // A panic in another thread leaves complete entries.
        let mut algorithms = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        match algorithms.get(&key) {
            Some(Some(algorithm)) => return run(algorithm),
            Some(None) => return Err(unsupported(gemm)),
            None => {}
        }
        // SAFETY: the handle is alive.
        let candidates = match unsafe { call.algorithms(self.handle, operands.alignments()) } {
            Err(LibraryError::Unsupported { .. }) => Vec::new(),
            candidates => candidates?,
        };
        let mut last_error = None;
        for algorithm in candidates {
            match run(&algorithm) {
                Ok(()) => {
                    algorithms.insert(key, Some(algorithm));
                    return Ok(());
                }
                Err(LibraryError::Unsupported { .. }) => {}
                Err(error) if is_rejection(&error, stream) => last_error = Some(error),
                Err(error) => return Err(error),
            }
        }
        algorithms.insert(key, None);
        match last_error {
            // Every epilogue has a fallback.
            Some(error) if gemm.epilogue != Epilogue::None => {
                warn(format_args!(
                    "no algorithm of cuBLASLt computes this {gemm}, so separate operations do; the last error: {error}"
                ));
                Err(unsupported(gemm))
            }
            Some(error) => Err(error),
            None => Err(unsupported(gemm)),
        }
    }
}

/// True for an error that leaves the device healthy, so that another algorithm may be tried: rejected arguments, and outside of a capture,
/// in which the device's health cannot be checked, a failed execution.
fn is_rejection(error: &LibraryError, stream: CUstream) -> bool {
    match error {
        LibraryError::Call { status: INVALID_VALUE | ARCHITECTURE_MISMATCH, .. } => true,
        // SAFETY: the caller's stream is alive.
        LibraryError::Call { status: EXECUTION_FAILED | INTERNAL_ERROR, .. } => unsafe {
            result::stream::is_capturing(stream) == Ok(CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
                && result::stream::synchronize(stream).is_ok()
        },
        _ => false,
    }
}

/// Creates the descriptors of a GEMM, which needs no device, and returns cuBLASLt's error if it rejects one.
pub fn check_descriptors(gemm: &Gemm) -> Result<(), LibraryError> {
    let operands = GemmOperands { a: 256, b: 256, d: 256, bias: 256, aux: 256 };
    MatmulCall::new(CublasLtApi::get()?, gemm, operands)?.preference(operands.alignments()).map(drop)
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: this value owns the handle.
        unsafe { (self.api.destroy)(self.handle) };
    }
}
