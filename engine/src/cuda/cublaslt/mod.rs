//! Matrix products by cuBLASLt: row-major, batched, in f32 (strict or TF32), f16 and bf16, with a bias, an activation, their
//! gradients, or a bias gradient, computed on the way.
//!
//! cuBLASLt thinks in columns: a row-major matrix is the transpose of a column-major one, so `D = A B` is asked for as
//! `Dᵀ = Bᵀ Aᵀ` with the operands exchanged (`call`). Its heuristics choose an algorithm when a [`Product`] is first met, which
//! [`Blas`] keeps for it; what the library refuses is remembered too, as the caller then takes another way.
mod api;
mod call;
mod opaque;
mod product;

use crate::cuda::library::{LibraryError, Workspace};
use api::{Algorithm, Api, unsupported};
use call::Call;
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

pub use product::{Epilogue, Gemm, GemmOperands};

/// The most bytes that a product works in.
pub const WORKSPACE_LIMIT: usize = 32 << 20;

/// How many algorithms are tried: one that heuristics hand out can still be refused.
const TRIES: usize = 4;

/// cuBLASLt on one device.
pub struct CublasLt {
    api: &'static Api,
    handle: *mut c_void,
    // What was found for each product at each alignment; `None` where the library has nothing.
    algorithms: Mutex<HashMap<(Gemm, product::Alignments), Option<Algorithm>>>,
}

// SAFETY: a cuBLASLt handle may be used by any thread, and by several at once.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

impl CublasLt {
    /// Opens cuBLASLt for the current context, which is to outlive this value.
    pub fn new() -> Result<CublasLt, LibraryError> {
        let api = Api::get()?;
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

    /// Queues a product on `stream`. [`LibraryError::Unsupported`] where the library lacks the epilogue, a size is zero or
    /// the epilogue's operands are not aligned to 16 bytes.
    ///
    /// # Safety
    /// The pointers must be device memory of the product's extents and dtype, free of other use until the stream has got
    /// there; `stream` must belong to the context of [`Blas::new`], which must be current.
    pub unsafe fn matmul(
        &self,
        product: &Gemm,
        operands: GemmOperands,
        stream: CUstream,
        workspace: &mut Workspace,
    ) -> Result<(), LibraryError> {
        if [product.rows, product.cols, product.inner, product.batch].contains(&0) {
            return Err(unsupported(format!("empty matrix: {product}")));
        }
        // No preference covers their alignment: an algorithm may read 16 bytes at once.
        if product.epilogue != Epilogue::None && !(operands.bias | operands.aux).is_multiple_of(16) {
            return Err(unsupported(format!("vector or mask that is not aligned to 16 bytes: {product}")));
        }
        let is_gelu = matches!(product.epilogue, Epilogue::BiasGeluTanhAux | Epilogue::DgeluTanhBgrad);
        if product.beside_step() != 0 && product.batch > 1 || is_gelu && !product.cols.is_multiple_of(8) {
            return Err(unsupported(product));
        }
        let call = Call::new(self.api, product, operands)?;
        let mut run = |algorithm: &Algorithm| {
            let memory: CUdeviceptr = match algorithm.workspace() {
                0 => 0,
                bytes => workspace(bytes)?,
            };
            // SAFETY: the operands are what the caller promises; the workspace is as large as the algorithm says.
            unsafe { call.run(self.handle, algorithm, memory, stream) }
        };
        let key = (*product, operands.alignments());
        // A panic elsewhere leaves whole entries.
        let mut algorithms = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        match algorithms.get(&key) {
            Some(Some(algorithm)) => return run(algorithm),
            Some(None) => return Err(unsupported(product)),
            None => {}
        }
        // SAFETY: the handle is alive.
        let candidates = match unsafe { call.algorithms(self.handle, operands.alignments()) } {
            Err(LibraryError::Unsupported { .. }) => Vec::new(),
            candidates => candidates?,
        };
        for algorithm in candidates {
            match run(&algorithm) {
                Ok(()) => {
                    algorithms.insert(key, Some(algorithm));
                    return Ok(());
                }
                Err(LibraryError::Unsupported { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        algorithms.insert(key, None);
        Err(unsupported(product))
    }
}

/// Describes `product` to the library as a call would, which needs no device; an error where the description is refused.
pub fn check_descriptors(product: &Gemm) -> Result<(), LibraryError> {
    let operands = GemmOperands { a: 256, b: 256, d: 256, bias: 256, aux: 256 };
    Call::new(Api::get()?, product, operands)?.preference(operands.alignments()).map(drop)
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's own.
        unsafe { (self.api.destroy)(self.handle) };
    }
}
