//! Elements as they are stored and as kernels compute with them. f16 and bf16 are computed in f32: a kernel widens a block of them into a
//! buffer that stays in the cache, and rounds what it writes there back to memory.
use super::cast::cast;
use super::elementary::Elementary;
use super::scratch;
use crate::Element;
use crate::dtype::{bf16, f16};

/// Element that is stored as `Self` and computed as `Compute`. Blocks of f32 and f64 are passed to the kernel as they are.
pub trait Stored: Element {
    /// Element in arithmetic.
    type Compute: Elementary;

    /// Calls `f` with the elements.
    fn load<R>(x: &[Self], f: impl FnOnce(&[Self::Compute]) -> R) -> R;

    /// Calls `f`, which writes every element, with arbitrary content.
    fn store<R>(y: &mut [Self], f: impl FnOnce(&mut [Self::Compute]) -> R) -> R;

    /// Calls `f` with the elements, and stores what it changes.
    fn update<R>(y: &mut [Self], f: impl FnOnce(&mut [Self::Compute]) -> R) -> R;
}

macro_rules! stored_as_computed {
    ($($T:ty),*) => {$(
        impl Stored for $T {
            type Compute = $T;

            #[inline(always)]
            fn load<R>(x: &[$T], f: impl FnOnce(&[$T]) -> R) -> R {
                f(x)
            }

            #[inline(always)]
            fn store<R>(y: &mut [$T], f: impl FnOnce(&mut [$T]) -> R) -> R {
                f(y)
            }

            #[inline(always)]
            fn update<R>(y: &mut [$T], f: impl FnOnce(&mut [$T]) -> R) -> R {
                f(y)
            }
        }
    )*};
}

macro_rules! stored_in_half {
    ($($T:ty),*) => {$(
        impl Stored for $T {
            type Compute = f32;

            fn load<R>(x: &[$T], f: impl FnOnce(&[f32]) -> R) -> R {
                scratch::with(x.len(), |wide: &mut [f32]| {
                    cast(x, wide);
                    f(wide)
                })
            }

            fn store<R>(y: &mut [$T], f: impl FnOnce(&mut [f32]) -> R) -> R {
                scratch::with(y.len(), |wide: &mut [f32]| {
                    let result = f(wide);
                    cast(wide, y);
                    result
                })
            }

            fn update<R>(y: &mut [$T], f: impl FnOnce(&mut [f32]) -> R) -> R {
                scratch::with(y.len(), |wide: &mut [f32]| {
                    cast(y, wide);
                    let result = f(wide);
                    cast(wide, y);
                    result
                })
            }
        }
    )*};
}

stored_as_computed!(f32, f64);
stored_in_half!(f16, bf16);
