//! cuDNN's backend descriptors as owned values. A finalised descriptor does not depend on its children, so there are no lifetimes.
use super::api::CudnnApi;
use crate::cuda::LibraryError;
use cudarc::cudnn::sys;
use std::ffi::c_void;
use sys::cudnnBackendAttributeType_t as Tag;

pub(super) use sys::cudnnBackendAttributeName_t as AttributeName;
pub(super) use sys::cudnnBackendDescriptorType_t as DescriptorType;

/// Backend descriptor.
pub(super) struct Descriptor {
    api: &'static CudnnApi,
    raw: *mut c_void,
}

// SAFETY: a descriptor is not bound to a thread, and it is used by one at a time because it is not Sync.
unsafe impl Send for Descriptor {}

impl Descriptor {
    /// Creates a descriptor without attributes.
    pub(super) fn new(api: &'static CudnnApi, kind: DescriptorType) -> Result<Descriptor, LibraryError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { (api.create_descriptor)(kind, &mut raw) };
        api.check(status, || format!("creating {kind:?}"))?;
        Ok(Descriptor { api, raw })
    }

    /// Sets an attribute to one or more values.
    pub(super) fn set<T: AttributeValue>(
        self,
        name: AttributeName,
        values: &[T],
    ) -> Result<Descriptor, LibraryError> {
        let count = values.len() as i64;
        // SAFETY: `values` has `count` elements of the tag's type; the library copies them.
        let status =
            unsafe { (self.api.set_attribute)(self.raw, name, T::TAG, count, values.as_ptr().cast()) };
        self.api.check(status, || format!("setting {name:?}"))?;
        Ok(self)
    }

    /// Finalises the descriptor: afterwards it can only be read.
    pub(super) fn finalize(self) -> Result<Descriptor, LibraryError> {
        // SAFETY: the descriptor is alive.
        let status = unsafe { (self.api.finalize)(self.raw) };
        self.api.check(status, || "finalising a descriptor".into())?;
        Ok(self)
    }

    /// Reads up to `values.len()` elements of an attribute and returns their number; for empty `values`, the number of available elements.
    pub(super) fn get<T: AttributeValue>(
        &self,
        name: AttributeName,
        values: &mut [T],
    ) -> Result<usize, LibraryError> {
        let mut count = 0i64;
        let requested = values.len() as i64;
        // The library counts only if the pointer is null; that of an empty slice is not.
        let target = if requested == 0 { std::ptr::null_mut() } else { values.as_mut_ptr().cast() };
        // SAFETY: `values` has `requested` elements of the tag's type.
        let status =
            unsafe { (self.api.get_attribute)(self.raw, name, T::TAG, requested, &mut count, target) };
        self.api.check(status, || format!("reading {name:?}"))?;
        Ok(count as usize)
    }

    /// The library's pointer, valid as long as this value lives.
    pub(super) fn raw(&self) -> DescriptorPointer {
        DescriptorPointer(self.raw)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: this value owns the descriptor. An error of its destruction cannot be handled.
        unsafe { (self.api.destroy_descriptor)(self.raw) };
    }
}

/// Type of an attribute's elements, with cuDNN's tag for it.
///
/// # Safety
/// The type must have the layout of the tag's type, and every bit pattern that the library may write must be a valid value.
pub(super) unsafe trait AttributeValue: Copy {
    /// cuDNN's tag.
    const TAG: Tag;
}

/// Descriptor as an attribute's value.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct DescriptorPointer(pub(super) *mut c_void);

/// cuDNN handle as an attribute's value.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct HandleValue(pub(super) *mut c_void);

/// Device pointer as an attribute's value.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct DevicePointer(pub(super) u64);

/// Numerical note, as an integer because newer libraries have notes that cudarc's enum lacks.
#[derive(Clone, Copy, Default, PartialEq)]
#[repr(transparent)]
pub(super) struct NumericalNote(pub(super) u32);

macro_rules! attributes {
    ($($type:ty => $tag:ident),* $(,)?) => {
        $(
            // SAFETY: the layouts are those of cudnn_backend.h; enums and booleans are only set, never read.
            unsafe impl AttributeValue for $type {
                const TAG: Tag = Tag::$tag;
            }
        )*
    };
}
attributes! {
    i64 => CUDNN_TYPE_INT64,
    f32 => CUDNN_TYPE_FLOAT,
    u8 => CUDNN_TYPE_CHAR,
    DescriptorPointer => CUDNN_TYPE_BACKEND_DESCRIPTOR,
    HandleValue => CUDNN_TYPE_HANDLE,
    DevicePointer => CUDNN_TYPE_VOID_PTR,
    NumericalNote => CUDNN_TYPE_NUMERICAL_NOTE,
    sys::cudnnDataType_t => CUDNN_TYPE_DATA_TYPE,
    sys::cudnnConvolutionMode_t => CUDNN_TYPE_CONVOLUTION_MODE,
    sys::cudnnBackendHeurMode_t => CUDNN_TYPE_HEUR_MODE,
    sys::cudnnGenStatsMode_t => CUDNN_TYPE_GENSTATS_MODE,
}
