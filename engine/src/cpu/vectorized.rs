//! Auto-vectorised loops, compiled once per SIMD level. On aarch64 the compiler uses NEON at every level: it is in the baseline.

/// Declares a function over slices whose loops the compiler vectorises, dispatched at run time like a `simd_kernel!`. Results are
/// bitwise equal at every level: floating-point operations are not contracted or reordered.
///
/// `wide` before `fn` adds a version for AVX-512, for compute-bound loops. Most loops are memory-bound, where it would add code but no
/// speed.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(< $($G:ident : $bound:path),+ >)? ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name$(<$($G: $bound),+>)?($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body$(<$($G: $bound),+>)?($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2$(<$($G: $bound),+>)?($($arg: $ty),*) $(-> $ret)? {
                body$(::<$($G),+>)?($($arg),*)
            }
            match $crate::cpu::simd::level() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the CPU has these features at both levels.
                $crate::cpu::simd::Level::Avx2 | $crate::cpu::simd::Level::Avx512 => unsafe {
                    avx2$(::<$($G),+>)?($($arg),*)
                },
                _ => body$(::<$($G),+>)?($($arg),*),
            }
        }
    };
    ($(#[$meta:meta])* $vis:vis wide fn $name:ident $(< $($G:ident : $bound:path),+ >)? ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name$(<$($G: $bound),+>)?($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body$(<$($G: $bound),+>)?($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512$(<$($G: $bound),+>)?($($arg: $ty),*) $(-> $ret)? {
                body$(::<$($G),+>)?($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2$(<$($G: $bound),+>)?($($arg: $ty),*) $(-> $ret)? {
                body$(::<$($G),+>)?($($arg),*)
            }
            match $crate::cpu::simd::level() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the CPU has these features at this level.
                $crate::cpu::simd::Level::Avx512 => unsafe { avx512$(::<$($G),+>)?($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::cpu::simd::Level::Avx2 => unsafe { avx2$(::<$($G),+>)?($($arg),*) },
                _ => body$(::<$($G),+>)?($($arg),*),
            }
        }
    };
}
pub(crate) use vectorized;
