//! Plain Rust loops compiled with and without AVX2, for the compiler's own vectoriser. These loops wait for memory: wider
//! registers than AVX2's would add code, not speed.

/// Declares a function over slices whose loops the compiler vectorises, dispatched at run time like a `simd_kernel!`.
/// Floating-point results are the same at every level: nothing is contracted or reordered.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident < $($G:ident : $bound:path),+ > ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name<$($G: $bound),+>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<$($G: $bound),+>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$($G: $bound),+>($($arg: $ty),*) $(-> $ret)? {
                body::<$($G),+>($($arg),*)
            }
            match $crate::cpu::simd::level() {
                $crate::cpu::simd::Level::Portable => body::<$($G),+>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: both other levels have these features.
                _ => unsafe { avx2::<$($G),+>($($arg),*) },
                #[cfg(not(target_arch = "x86_64"))]
                _ => body::<$($G),+>($($arg),*),
            }
        }
    };
}
pub(crate) use vectorized;
