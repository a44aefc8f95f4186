//! cuBLASLt's descriptors: each owned by one Rust value, which destroys it.
use super::api::Api;
use crate::DType;
use crate::cuda::library::LibraryError;
use cudarc::cublaslt::sys;
use std::ffi::c_void;

pub(super) use sys::cublasLtMatmulDescAttributes_t as MatmulName;
pub(super) use sys::cublasLtMatmulPreferenceAttributes_t as PreferenceName;
pub(super) use sys::cublasLtMatrixLayoutAttribute_t as LayoutName;

/// A type that the library copies into an attribute byte for byte.
pub(super) trait Plain: Copy {}
impl Plain for i32 {}
impl Plain for u32 {}
impl Plain for i64 {}
impl Plain for u64 {}

macro_rules! descriptor {
    ($(#[$meta:meta])* $name:ident, $attribute:ty, $set:ident, $destroy:ident) => {
        $(#[$meta])*
        pub(super) struct $name {
            api: &'static Api,
            pub(super) raw: *mut c_void,
        }

        impl $name {
            pub(super) fn set<T: Plain>(self, name: $attribute, value: T) -> Result<$name, LibraryError> {
                // SAFETY: the library copies as many bytes as the value has.
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
    /// The operation: transpositions, precision, epilogue.
    Matmul, MatmulName, set_matmul, destroy_matmul
);
descriptor!(
    /// A column-major matrix, or a batch of them.
    Layout, LayoutName, set_layout, destroy_layout
);
descriptor!(
    /// What an algorithm may use.
    Preference, PreferenceName, set_preference, destroy_preference
);

impl Matmul {
    pub(super) fn new(api: &'static Api, tf32: bool) -> Result<Matmul, LibraryError> {
        use sys::cublasComputeType_t::{CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32};
        let compute = if tf32 { CUBLAS_COMPUTE_32F_FAST_TF32 } else { CUBLAS_COMPUTE_32F };
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { (api.create_matmul)(&mut raw, compute, sys::cudaDataType::CUDA_R_32F) };
        api.check(status, || "creating a matmul descriptor".into())?;
        Ok(Matmul { api, raw })
    }
}

impl Layout {
    /// A matrix of `rows` x `cols` whose columns lie `leading` elements apart.
    pub(super) fn new(
        api: &'static Api,
        dtype: DType,
        rows: usize,
        cols: usize,
        leading: usize,
    ) -> Result<Layout, LibraryError> {
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
        Ok(Layout { api, raw })
    }
}

impl Preference {
    pub(super) fn new(api: &'static Api) -> Result<Preference, LibraryError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { (api.create_preference)(&mut raw) };
        api.check(status, || "creating a preference".into())?;
        Ok(Preference { api, raw })
    }
}
