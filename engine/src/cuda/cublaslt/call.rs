//! A row-major product as cuBLASLt's column-major one. A row-major matrix `[r, c]` is, column by column, the matrix c x r:
//! its transpose. So `Dᵀ = op(B)ᵀ op(A)ᵀ`: our B is the library's A, our A its B, and the flags keep their sense. (ORDER_ROW
//! would say so directly, but does not work with the bias epilogues.)
use super::api::{Algorithm, Api};
use super::opaque::{Layout, LayoutName, Matmul, MatmulName, Preference, PreferenceName};
use super::product::{Alignments, Epilogue, Gemm, GemmOperands};
use super::{TRIES, WORKSPACE_LIMIT};
use crate::cuda::library::LibraryError;
use cudarc::cublaslt::sys::cublasLtReductionScheme_t as Scheme;
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use std::ffi::c_void;

/// The descriptors of one product.
pub(super) struct Call<'a> {
    api: &'static Api,
    product: &'a Gemm,
    operands: GemmOperands,
    matmul: Matmul,
    a: Layout,
    b: Layout,
    d: Layout,
}

impl Call<'_> {
    pub(super) fn new<'a>(
        api: &'static Api,
        product: &'a Gemm,
        operands: GemmOperands,
    ) -> Result<Call<'a>, LibraryError> {
        let p = product;
        // CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
        let mut matmul = Matmul::new(api, p.tf32)?
            .set(MatmulName::CUBLASLT_MATMUL_DESC_TRANSA, i32::from(p.transpose_b))?
            .set(MatmulName::CUBLASLT_MATMUL_DESC_TRANSB, i32::from(p.transpose_a))?
            .set(MatmulName::CUBLASLT_MATMUL_DESC_EPILOGUE, p.epilogue.code() as u32)?;
        if p.epilogue != Epilogue::None {
            matmul = matmul.set(MatmulName::CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias)?;
        }
        if p.beside_step() != 0 {
            matmul = matmul
                .set(MatmulName::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, operands.aux)?
                .set(MatmulName::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.beside_step() as i64)?;
        }
        // The layout of a stored row-major matrix [r, c], each batch entry `step` elements on.
        let layout = |rows: usize, cols: usize, step: usize| {
            Layout::new(api, p.dtype, cols, rows, cols)?
                .set(LayoutName::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, p.batch as i32)?
                .set(LayoutName::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, step as i64)
        };
        let stored = |transposed, rows, cols, step| match transposed {
            true => layout(cols, rows, step),
            false => layout(rows, cols, step),
        };
        Ok(Call {
            api,
            product,
            operands,
            matmul,
            a: stored(p.transpose_a, p.rows, p.inner, p.stride_a)?,
            b: stored(p.transpose_b, p.inner, p.cols, p.stride_b)?,
            d: layout(p.rows, p.cols, p.rows * p.cols)?,
        })
    }

    /// What an algorithm may use, and what it may rely on.
    pub(super) fn preference(&self, alignments: Alignments) -> Result<Preference, LibraryError> {
        // Partial sums stay in f32 and in their order: no algorithm that adds up in the output's type, or in place.
        let scheme = Scheme::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        Preference::new(self.api)?
            .set(PreferenceName::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE_LIMIT as u64)?
            .set(PreferenceName::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, scheme)?
            .set(PreferenceName::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignments.b)?
            .set(PreferenceName::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignments.a)?
            .set(PreferenceName::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignments.d)?
            .set(PreferenceName::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignments.d)
    }

    /// Asks the heuristics for algorithms, best first.
    ///
    /// # Safety
    /// `handle` must be a live cuBLASLt handle.
    pub(super) unsafe fn algorithms(
        &self,
        handle: *mut c_void,
        alignments: Alignments,
    ) -> Result<Vec<Algorithm>, LibraryError> {
        let preference = self.preference(alignments)?;
        let mut found = [Algorithm::EMPTY; TRIES];
        let mut count = 0i32;
        let (matmul, a, b, d) = (self.matmul.raw, self.a.raw, self.b.raw, self.d.raw);
        // SAFETY: all descriptors are alive; there is room for `TRIES` results.
        let status = unsafe {
            let (results, wanted) = (found.as_mut_ptr(), TRIES as i32);
            (self.api.heuristic)(handle, matmul, b, a, d, d, preference.raw, wanted, results, &mut count)
        };
        self.api.check(status, || self.product.to_string())?;
        Ok(found[..count as usize].iter().filter(|algorithm| algorithm.is_usable()).copied().collect())
    }

    /// Queues the product.
    ///
    /// # Safety
    /// The operands must be device memory of the product's extents; `workspace` as large as the algorithm says; `stream` alive.
    pub(super) unsafe fn run(
        &self,
        handle: *mut c_void,
        algorithm: &Algorithm,
        workspace: CUdeviceptr,
        stream: CUstream,
    ) -> Result<(), LibraryError> {
        let pointer = |address: CUdeviceptr| address as usize as *mut c_void;
        let [a, b, d] = [self.operands.a, self.operands.b, self.operands.d].map(pointer);
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: as the caller promises; alpha and beta are read before the call returns. C is D, which a beta of zero does
        // not read.
        let status = unsafe {
            (self.api.matmul)(
                handle,
                self.matmul.raw,
                (&raw const one).cast(),
                b,
                self.b.raw,
                a,
                self.a.raw,
                (&raw const zero).cast(),
                d,
                self.d.raw,
                d,
                self.d.raw,
                &algorithm.choice,
                pointer(workspace),
                algorithm.workspace(),
                stream.cast(),
            )
        };
        self.api.check(status, || self.product.to_string())
    }
}
