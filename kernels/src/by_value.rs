//! Types that kernels take by value, and the macro that declares the structs among them.
use std::fmt;
use std::marker::PhantomData;

/// Plain data that a kernel takes by value, with the same layout in Rust and in CUDA C++.
///
/// # Safety
/// The type has no padding, and all bytes zero are a value of it.
pub unsafe trait ByValue: Copy {
    /// The value whose bytes are all zero: zeros, null addresses and first variants.
    fn zeroed() -> Self {
        // SAFETY: zero bytes are a value of the type.
        unsafe { std::mem::zeroed() }
    }

    /// The bytes that are passed.
    fn bytes(&self) -> &[u8] {
        // SAFETY: the value is borrowed and has no padding.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

/// Implements [`ByValue`] for numbers.
macro_rules! numbers {
    ($($number:ty),*) => {
        $(
            // SAFETY: a number has no padding, and its zero has zero bytes.
            unsafe impl ByValue for $number {}
        )*
    };
}

numbers!(u32, i32, f32, u64, i64, f64);

// SAFETY: an array has no padding between its elements.
unsafe impl<T: ByValue, const N: usize> ByValue for [T; N] {}

/// Elements of any dtype: `void` in a kernel.
pub enum Any {}

/// Defines types of device addresses.
macro_rules! addresses {
    ($($(#[doc = $doc:literal])* $name:ident;)*) => {
        $(
            $(#[doc = $doc])*
            #[repr(transparent)]
            pub struct $name<T>(u64, PhantomData<fn() -> T>);

            impl<T> $name<T> {
                /// Null.
                pub const NULL: $name<T> = $name(0, PhantomData);

                /// The address with this number.
                pub const fn new(address: u64) -> Self {
                    $name(address, PhantomData)
                }
            }

            impl<T> Clone for $name<T> {
                fn clone(&self) -> Self {
                    *self
                }
            }

            impl<T> Copy for $name<T> {}

            impl<T> PartialEq for $name<T> {
                fn eq(&self, other: &Self) -> bool {
                    self.0 == other.0
                }
            }

            impl<T> fmt::Debug for $name<T> {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    write!(f, "{:#x}", self.0)
                }
            }

            // SAFETY: a number of 64 bits, which is 0 for null.
            unsafe impl<T> ByValue for $name<T> {}
        )*
    };
}

addresses! {
    /// Device address of elements that a kernel reads: `const T*` in the kernel.
    Address;
    /// Device address of elements that a kernel writes: `T*` in the kernel.
    AddressMut;
    /// Device address of elements that a kernel converts to a pointer: `unsigned long long` in the kernel.
    AddressBits;
}

/// Defines constants, enums and structs that kernels take by value. A struct with padding does not compile.
macro_rules! arguments {
    ($($item:tt)*) => {
        use $crate::by_value::{Address, AddressBits, AddressMut, Any, ByValue};
        declare! { $($item)* }
    };
}

macro_rules! declare {
    () => {};
    ($(#[doc = $doc:literal])* pub const $name:ident: usize = $value:literal; $($rest:tt)*) => {
        $(#[doc = $doc])*
        pub const $name: usize = $value;
        declare! { $($rest)* }
    };
    ($(#[doc = $doc:literal])* pub enum $name:ident { $($variants:tt)* } $($rest:tt)*) => {
        $(#[doc = $doc])*
        #[repr(i32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($variants)* }

        // SAFETY: the first variant is 0, and the type has the size of its number.
        unsafe impl ByValue for $name {}

        declare! { $($rest)* }
    };
    ($(#[doc = $doc:literal])* pub struct $name:ident {
        $($(#[doc = $field_doc:literal])* pub $field:ident: $type:ty,)*
    } $($rest:tt)*) => {
        $(#[doc = $doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $field_doc])* pub $field: $type,)*
        }

        const _: () = {
            assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*, "the struct has padding");
            const fn all_by_value<T: ByValue>() {}
            $(all_by_value::<$type>();)*
        };
        // SAFETY: checked above: all fields are plain data, and there is no padding between or after them.
        unsafe impl ByValue for $name {}

        declare! { $($rest)* }
    };
}
