//! cuBLASLt's descriptors as owned values.
use super::api::CublasLtApi;
use crate::DType;
use crate::cuda::LibraryError;
use cudarc::cublaslt::sys;
use std::ffi::c_void;

pub(super) use sys::cublasLtMatmulDescAttributes_t as MatmulAttribute;
pub(super) use sys::cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute;
pub(super) use sys::cublasLtMatrixLayoutAttribute_t as LayoutAttribute;

/// Plain type of an attribute's value.
pub(super) trait AttributeValue: Copy {}
impl AttributeValue for i32 {}
impl AttributeValue for u32 {}
impl AttributeValue for i64 {}
impl AttributeValue for u64 {}

macro_rules! descriptor {
    ($(#[$meta:meta])* $name:ident, $attribute:ty, $set:ident, $destroy:ident) => {
        $(#[$meta])*
        pub(super) struct $name {
            api: &'static CublasLtApi,
            pub(super) raw: *mut c_void,
        }

        impl $name {
            pub(super) fn set<T: AttributeValue>(self, name: $attribute, value: T) -> Result<$name, LibraryError> {
                // SAFETY: the library copies `size_of::<T>()` bytes.
                let status = unsafe { (self.api.$set)(self.raw, name, (&raw const value).cast(), size_of::<T>()) };
                self.api.check(status, || format!("setting {name:?}"))?;
                Ok(self)
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: this value owns the descriptor.
                unsafe { (self.api.$destroy)(self.raw) };
            }
        }
    };
}
descriptor!(
    /// Descriptor of a matmul: transpositions, precision, epilogue.
    MatmulDescriptor, MatmulAttribute, set_matmul, destroy_matmul
);
descriptor!(
    /// Layout of a column-major matrix, or of a batch of them.
    MatrixLayout, LayoutAttribute, set_layout, destroy_layout
);
descriptor!(
    /// Constraints on algorithms.
    MatmulPreference, PreferenceAttribute, set_preference, destroy_preference
);

impl MatmulDescriptor {
    pub(super) fn new(api: &'static CublasLtApi, tf32: bool) -> Result<MatmulDescriptor, LibraryError> {
        use sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        let compute = if tf32 { CUBLAS_COMPUTE_32F_FAST_TF32 } else { CUBLAS_COMPUTE_32F };
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { (api.create_matmul)(&mut raw, compute, sys::cudaDataType::CUDA_R_32F) };
        api.check(status, || "creating a matmul descriptor".into())?;
        Ok(MatmulDescriptor { api, raw })
    }
}

impl MatrixLayout {
    /// Layout of a matrix of `rows` x `cols` with leading dimension `leading`.
    pub(super) fn new(
        api: &'static CublasLtApi,
        dtype: DType,
        rows: usize,
        cols: usize,
        leading: usize,
    ) -> Result<MatrixLayout, LibraryError> {
        let data_type = match dtype {
            DType::F32 => sys::cudaDataType::CUDA_R_32F,
            DType::F16 => sys::cudaDataType::CUDA_R_16F,
            DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
            _ => return Err(super::unsupported(format!("matrix of {dtype}"))),
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        let status =
            unsafe { (api.create_layout)(&mut raw, data_type, rows as u64, cols as u64, leading as i64) };
        api.check(status, || format!("creating a layout of {rows} x {cols}"))?;
        Ok(MatrixLayout { api, raw })
    }
}

impl MatmulPreference {
    pub(super) fn new(api: &'static CublasLtApi) -> Result<MatmulPreference, LibraryError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { (api.create_preference)(&mut raw) };
        api.check(status, || "creating a preference".into())?;
        Ok(MatmulPreference { api, raw })
    }
}
