//! Row-major GEMM as a column-major call of cuBLASLt. In column-major order a row-major matrix `[r, c]` is its transpose, c x r. So
//! `Dᵀ = op(B)ᵀ op(A)ᵀ`: our B is cuBLASLt's A, our A its B, and the transpose flags keep their meaning. (CUBLASLT_ORDER_ROW would be
//! direct, but does not work with the bias epilogues.)
use super::api::{CUBLASLT, CublasLtApi, MatmulAlgorithm};
use super::descriptor::{
    LayoutAttribute, MatmulAttribute, MatmulDescriptor, MatmulPreference, MatrixLayout, PreferenceAttribute,
};
use super::gemm::{Epilogue, Gemm, GemmAlignments, GemmOperands};
use super::{MAX_ALGORITHMS, WORKSPACE_LIMIT};
use crate::cuda::LibraryError;
use cudarc::cublaslt::sys::cublasLtEpilogue_t as Code;
use cudarc::cublaslt::sys::cublasLtReductionScheme_t as Scheme;
use cudarc::driver::sys::{CUdeviceptr, CUstream};
use std::ffi::c_void;

/// Descriptors of one GEMM.
pub(super) struct MatmulCall<'a> {
    api: &'static CublasLtApi,
    gemm: &'a Gemm,
    operands: GemmOperands,
    matmul: MatmulDescriptor,
    a: MatrixLayout,
    b: MatrixLayout,
    d: MatrixLayout,
}

impl MatmulCall<'_> {
    pub(super) fn new<'a>(
        api: &'static CublasLtApi,
        gemm: &'a Gemm,
        operands: GemmOperands,
    ) -> Result<MatmulCall<'a>, LibraryError> {
        let p = gemm;
        // CUBLAS_OP_N is 0, CUBLAS_OP_T is 1.
        let mut matmul = MatmulDescriptor::new(api, p.tf32)?
            .set(MatmulAttribute::CUBLASLT_MATMUL_DESC_TRANSA, i32::from(p.transpose_b))?
            .set(MatmulAttribute::CUBLASLT_MATMUL_DESC_TRANSB, i32::from(p.transpose_a))?
            .set(MatmulAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_code(p.epilogue) as u32)?;
        if p.epilogue != Epilogue::None {
            matmul = matmul.set(MatmulAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias)?;
        }
        if p.aux_stride() != 0 {
            matmul = matmul
                .set(MatmulAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, operands.aux)?
                .set(MatmulAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.aux_stride() as i64)?;
        }
        let batch = i32::try_from(p.batch).map_err(|_| LibraryError::Unsupported {
            library: CUBLASLT,
            what: format!("a batch of {} matrices", p.batch),
        })?;
        // Layout of a stored row-major matrix [rows, cols] with batch stride `stride`.
        let layout = |rows: usize, cols: usize, stride: usize| {
            MatrixLayout::new(api, p.dtype, cols, rows, cols)?
                .set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, batch)?
                .set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride as i64)
        };
        let stored = |transposed, rows, cols, stride| match transposed {
            true => layout(cols, rows, stride),
            false => layout(rows, cols, stride),
        };
        Ok(MatmulCall {
            api,
            gemm,
            operands,
            matmul,
            a: stored(p.transpose_a, p.rows, p.inner, p.stride_a)?,
            b: stored(p.transpose_b, p.inner, p.cols, p.stride_b)?,
            d: layout(p.rows, p.cols, p.rows * p.cols)?,
        })
    }

    /// Constraints on algorithms: workspace limit, reduction scheme and alignments.
    pub(super) fn preference(&self, alignments: GemmAlignments) -> Result<MatmulPreference, LibraryError> {
        // Only deterministic reductions in f32: none in the output's type or in place.
        let scheme = Scheme::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        MatmulPreference::new(self.api)?
            .set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE_LIMIT as u64)?
            .set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, scheme)?
            .set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignments.b)?
            .set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignments.a)?
            .set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignments.d)?
            .set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignments.d)
    }

    /// Queries the heuristics for algorithms, best first.
    ///
    /// # Safety
    /// `handle` must be a live cuBLASLt handle.
    pub(super) unsafe fn algorithms(
        &self,
        handle: *mut c_void,
        alignments: GemmAlignments,
    ) -> Result<Vec<MatmulAlgorithm>, LibraryError> {
        let preference = self.preference(alignments)?;
        let mut found = [MatmulAlgorithm::EMPTY; MAX_ALGORITHMS];
        let mut count = 0i32;
        let (matmul, a, b, d) = (self.matmul.raw, self.a.raw, self.b.raw, self.d.raw);
        // SAFETY: all descriptors are alive; the array has `MAX_ALGORITHMS` elements.
        let status = unsafe {
            let (results, requested) = (found.as_mut_ptr(), MAX_ALGORITHMS as i32);
            (self.api.heuristic)(handle, matmul, b, a, d, d, preference.raw, requested, results, &mut count)
        };
        self.api.check(status, || self.gemm.to_string())?;
        Ok(found[..count as usize].iter().filter(|algorithm| algorithm.is_usable()).copied().collect())
    }

    /// Queues the GEMM.
    ///
    /// # Safety
    /// The operands must be device memory of the GEMM's shapes and dtype, `workspace` must have [`MatmulAlgorithm::workspace`] bytes, and
    /// `stream` must be alive.
    pub(super) unsafe fn run(
        &self,
        handle: *mut c_void,
        algorithm: &MatmulAlgorithm,
        workspace: CUdeviceptr,
        stream: CUstream,
    ) -> Result<(), LibraryError> {
        let pointer = |address: CUdeviceptr| address as usize as *mut c_void;
        let [a, b, d] = [self.operands.a, self.operands.b, self.operands.d].map(pointer);
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: guaranteed by the caller; alpha and beta are read before the call returns. C is D, which is not read because beta is
        // zero.
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
        self.api.check(status, || self.gemm.to_string())
    }
}

/// cuBLASLt's code of an epilogue.
fn epilogue_code(epilogue: Epilogue) -> Code {
    match epilogue {
        Epilogue::None => Code::CUBLASLT_EPILOGUE_DEFAULT,
        Epilogue::Bias => Code::CUBLASLT_EPILOGUE_BIAS,
        Epilogue::BiasRelu => Code::CUBLASLT_EPILOGUE_RELU_BIAS,
        Epilogue::BiasGeluTanh => Code::CUBLASLT_EPILOGUE_GELU_BIAS,
        Epilogue::BiasReluAux => Code::CUBLASLT_EPILOGUE_RELU_AUX_BIAS,
        Epilogue::BiasGeluTanhAux => Code::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
        Epilogue::DreluBgrad => Code::CUBLASLT_EPILOGUE_DRELU_BGRAD,
        Epilogue::DgeluTanhBgrad => Code::CUBLASLT_EPILOGUE_DGELU_BGRAD,
        // The operands are exchanged: our A is cuBLASLt's B.
        Epilogue::BgradA => Code::CUBLASLT_EPILOGUE_BGRADB,
    }
}
