//! cuDNN's opaque descriptors: each owned by one Rust value, which destroys it. cuDNN keeps what a finalised descriptor needs
//! of its children, so no lifetimes tie them together.
use super::api::Api;
use crate::cuda::library::LibraryError;
use cudarc::cudnn::sys;
use std::ffi::c_void;
use sys::cudnnBackendAttributeType_t as Tag;

pub(super) use sys::cudnnBackendAttributeName_t as Name;
pub(super) use sys::cudnnBackendDescriptorType_t as Kind;

/// A backend descriptor.
pub(super) struct Descriptor {
    api: &'static Api,
    raw: *mut c_void,
}

// SAFETY: a descriptor belongs to no thread; it is used by one at a time because reads need `&` of a value that is never shared.
unsafe impl Send for Descriptor {}

impl Descriptor {
    /// A new descriptor, without attributes.
    pub(super) fn new(api: &'static Api, kind: Kind) -> Result<Descriptor, LibraryError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the library writes one pointer.
        let status = unsafe { (api.create_descriptor)(kind, &mut raw) };
        api.check(status, || format!("creating {kind:?}"))?;
        Ok(Descriptor { api, raw })
    }

    /// Sets an attribute to one value or several.
    pub(super) fn set<T: Attribute>(self, name: Name, values: &[T]) -> Result<Descriptor, LibraryError> {
        let count = values.len() as i64;
        // SAFETY: `values` holds `count` elements of the type that the tag names; the library copies them.
        let status =
            unsafe { (self.api.set_attribute)(self.raw, name, T::TAG, count, values.as_ptr().cast()) };
        self.api.check(status, || format!("setting {name:?}"))?;
        Ok(self)
    }

    /// Closes the descriptor: from here it can only be read.
    pub(super) fn finish(self) -> Result<Descriptor, LibraryError> {
        // SAFETY: the descriptor is alive.
        let status = unsafe { (self.api.finalize)(self.raw) };
        self.api.check(status, || "finalising a descriptor".into())?;
        Ok(self)
    }

    /// Reads up to `values.len()` elements of an attribute; the number read. Asked for none, the library says how many there are.
    pub(super) fn get<T: Attribute>(&self, name: Name, values: &mut [T]) -> Result<usize, LibraryError> {
        let mut count = 0i64;
        let wanted = values.len() as i64;
        // It counts only for a null pointer; an empty slice's is not null.
        let target = if wanted == 0 { std::ptr::null_mut() } else { values.as_mut_ptr().cast() };
        // SAFETY: there is room for `wanted` elements of the type that the tag names.
        let status = unsafe { (self.api.get_attribute)(self.raw, name, T::TAG, wanted, &mut count, target) };
        self.api.check(status, || format!("reading {name:?}"))?;
        Ok(count as usize)
    }

    /// The library's pointer, valid while this value lives.
    pub(super) fn raw(&self) -> Child {
        Child(self.raw)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: this value owns the descriptor; its status says nothing that could be acted on.
        unsafe { (self.api.destroy_descriptor)(self.raw) };
    }
}

/// A type of attribute elements, and cuDNN's tag for it.
///
/// # Safety
/// The type must have the layout that the tag names, and every bit pattern that the library may write must be a value of it.
pub(super) unsafe trait Attribute: Copy {
    /// The tag.
    const TAG: Tag;
}

/// A descriptor as the value of an attribute.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Child(pub(super) *mut c_void);

/// A cuDNN handle as the value of an attribute.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct HandleValue(pub(super) *mut c_void);

/// A device pointer as the value of an attribute.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct DevicePointer(pub(super) u64);

/// A numerical note. An integer, as newer libraries have notes that cudarc's enum lacks.
#[derive(Clone, Copy, Default, PartialEq)]
#[repr(transparent)]
pub(super) struct Note(pub(super) u32);

macro_rules! attributes {
    ($($type:ty => $tag:ident),* $(,)?) => {
        $(
            // SAFETY: the layouts are those of cudnn_backend.h; enums and booleans are only ever set, never read.
            unsafe impl Attribute for $type {
                const TAG: Tag = Tag::$tag;
            }
        )*
    };
}
attributes! {
    i64 => CUDNN_TYPE_INT64,
    f32 => CUDNN_TYPE_FLOAT,
    u8 => CUDNN_TYPE_CHAR,
    bool => CUDNN_TYPE_BOOLEAN,
    Child => CUDNN_TYPE_BACKEND_DESCRIPTOR,
    HandleValue => CUDNN_TYPE_HANDLE,
    DevicePointer => CUDNN_TYPE_VOID_PTR,
    Note => CUDNN_TYPE_NUMERICAL_NOTE,
    sys::cudnnDataType_t => CUDNN_TYPE_DATA_TYPE,
    sys::cudnnConvolutionMode_t => CUDNN_TYPE_CONVOLUTION_MODE,
    sys::cudnnBackendHeurMode_t => CUDNN_TYPE_HEUR_MODE,
    sys::cudnnPointwiseMode_t => CUDNN_TYPE_POINTWISE_MODE,
    sys::cudnnGenStatsMode_t => CUDNN_TYPE_GENSTATS_MODE,
}
