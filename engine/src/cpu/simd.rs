//! SIMD abstraction over vector registers of f32: a kernel is written once and compiled for AVX-512, AVX2, NEON and plain Rust. The
//! widest level that the CPU supports is chosen at run time.
//!
//! A kernel is declared with `simd_kernel!`. All of its code must be inlined into the function with the `target_feature` attribute: no
//! `std::array::from_fn`, no closures, no calls to functions that are not `#[inline(always)]`.
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(target_arch = "aarch64")]
mod neon;
mod peak;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use peak::run_fmas;
pub use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

/// Instruction set that kernels are compiled for, in ascending width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Plain Rust with eight lanes, compiled for the target's baseline.
    Portable = 1,
    /// NEON: 32 registers of four lanes, used as 16 pairs of eight lanes.
    Neon = 2,
    /// AVX2 and FMA: 16 registers of eight lanes.
    Avx2 = 3,
    /// AVX-512 F, BW, DQ and VL: 32 registers of sixteen lanes.
    Avx512 = 4,
}

static LEVEL: AtomicU8 = AtomicU8::new(0);

impl Level {
    /// f32 lanes per register.
    pub const fn lanes(self) -> usize {
        match self {
            Level::Avx512 => 16,
            Level::Avx2 | Level::Neon | Level::Portable => 8,
        }
    }

    /// Levels that the CPU supports, in ascending width.
    pub fn supported() -> &'static [Level] {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match (avx2, avx512) {
                (true, true) => &[Level::Portable, Level::Avx2, Level::Avx512],
                (true, false) => &[Level::Portable, Level::Avx2],
                (false, _) => &[Level::Portable],
            }
        }
        // NEON is part of the architecture's baseline.
        #[cfg(target_arch = "aarch64")]
        {
            &[Level::Portable, Level::Neon]
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            &[Level::Portable]
        }
    }
}

/// The level in use: the widest that the CPU supports, or the limit set by [`set_max_level`].
#[inline]
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        4 => Level::Avx512,
        3 => Level::Avx2,
        2 => Level::Neon,
        1 => Level::Portable,
        _ => {
            let widest = widest_up_to(Level::Avx512);
            LEVEL.store(widest as u8, Ordering::Relaxed);
            widest
        }
    }
}

/// Limits the level of the whole process to the widest supported one up to `limit`. For tests and benches that compare levels.
pub fn set_max_level(limit: Level) {
    LEVEL.store(widest_up_to(limit) as u8, Ordering::Relaxed);
}

/// Prefetches the cache line at `p` into the L2 cache. Any address is allowed.
#[inline(always)]
pub fn prefetch(p: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of the baseline instruction set, and a hint: it never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(p.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint, which never faults, writes no register and no memory.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) p, options(nostack, readonly, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = p;
}

/// Lock for tests that set the level or compare bits, because the level is global to the process.
#[cfg(test)]
pub(crate) fn lock_level() -> std::sync::MutexGuard<'static, ()> {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn widest_up_to(limit: Level) -> Level {
    let supported = Level::supported();
    supported.iter().copied().rfind(|level| *level <= limit).unwrap_or(Level::Portable)
}

/// Register of f32 lanes and its operations.
///
/// # Safety
/// Methods may only be called where the instruction set of the implementing type is available: inside a `simd_kernel!`. Pointers must be
/// valid for the lanes that are read or written. Only [`Simd::stream`] requires alignment.
#[allow(missing_docs, reason = "each method is the vector operation of its name")]
pub unsafe trait Simd: Copy + Send + Sync + 'static {
    /// Lanes of a register.
    const LANES: usize;
    /// The register.
    type V: Copy;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Loads the first `n <= LANES` lanes and zeroes the others.
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V;
    /// Stores the first `n <= LANES` lanes and leaves other memory unchanged.
    unsafe fn store_first(p: *mut f32, n: usize, v: Self::V);
    /// Non-temporal store where the level has one. `p` must be aligned to the register. Call [`Simd::fence`] before another thread reads the data.
    unsafe fn stream(p: *mut f32, v: Self::V);
    unsafe fn fence();
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once if the level has FMA.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Lane-wise maximum; `b` where either operand is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise minimum; `b` where either operand is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// Lane-wise `a > b ? x : y`; `y` where `a` or `b` is NaN.
    unsafe fn select_gt(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Permutation: lane `l` of the result is lane `lanes[l]` of `v`. `lanes` holds `LANES` indices below `LANES`.
    unsafe fn permute(v: Self::V, lanes: *const i32) -> Self::V;
    /// Sum of the lanes, in a fixed order.
    unsafe fn sum(v: Self::V) -> f32;
    /// Transposes 8x8 elements, whose rows are `from_pitch` and `to_pitch` apart.
    #[inline(always)]
    unsafe fn transpose8(from: *const f32, from_pitch: usize, to: *mut f32, to_pitch: usize) {
        for i in 0..8 {
            for j in 0..8 {
                *to.add(j * to_pitch + i) = *from.add(i * from_pitch + j);
            }
        }
    }
}

/// Declares a kernel over any [`Simd`] type `S`, compiled for every level and dispatched at run time:
///
/// ```text
/// simd_kernel! {
///     /// `y = a * x`.
///     pub(crate) fn scale<S>(x: *const f32, y: *mut f32, n: usize, a: f32) { unsafe { … S::load(x) … } }
/// }
/// ```
///
/// The generated function is `unsafe`: valid pointers are the caller's obligation. With `<S at level>` it takes the [`Level`] as its
/// first argument, for kernels whose data layout depends on the register width: layout and kernel must agree even if the level in use
/// changes in between.
macro_rules! simd_kernel {
    ($(#[$meta:meta])* $vis:vis fn $name:ident < $S:ident at level $(, const $C:ident : $ct:ty)* > ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[inline]
        $vis unsafe fn $name<$(const $C: $ct),*>(level: $crate::cpu::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            unsafe fn body<$S: $crate::cpu::simd::Simd $(, const $C: $ct)*>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            unsafe fn avx512<$(const $C: $ct),*>($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function enables the features of the level; the rest is the caller's obligation.
                unsafe { body::<$crate::cpu::simd::Avx512 $(, $C)*>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2<$(const $C: $ct),*>($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: as above.
                unsafe { body::<$crate::cpu::simd::Avx2 $(, $C)*>($($arg),*) }
            }
            match level {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the level came from `level()`, so the CPU has these features.
                $crate::cpu::simd::Level::Avx512 => unsafe { avx512::<$($C),*>($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::cpu::simd::Level::Avx2 => unsafe { avx2::<$($C),*>($($arg),*) },
                #[cfg(target_arch = "aarch64")]
                // SAFETY: NEON is part of the baseline; the rest is the caller's obligation.
                $crate::cpu::simd::Level::Neon => unsafe { body::<$crate::cpu::simd::Neon $(, $C)*>($($arg),*) },
                // SAFETY: the portable version needs no features.
                _ => unsafe { body::<$crate::cpu::simd::Portable $(, $C)*>($($arg),*) },
            }
        }
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident < $S:ident $(, const $C:ident : $ct:ty)* > ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[inline]
        $vis unsafe fn $name<$(const $C: $ct),*>($($arg: $ty),*) $(-> $ret)? {
            $crate::cpu::simd::simd_kernel! {
                fn at<$S at level $(, const $C: $ct)*>($($arg: $ty),*) $(-> $ret)? $body
            }
            // SAFETY: the caller's obligation.
            unsafe { at::<$($C),*>($crate::cpu::simd::level(), $($arg),*) }
        }
    };
}
pub(crate) use simd_kernel;

#[cfg(test)]
mod tests {
    use super::*;

    simd_kernel! {
        /// `y = 2x + 1` over n elements, including the tail. Returns the sum of y.
        fn double_plus_one<S>(x: *const f32, y: *mut f32, n: usize) -> f32 {
            unsafe {
                let (two, one) = (S::splat(2.0), S::splat(1.0));
                let mut total = S::splat(0.0);
                let mut i = 0;
                while i + S::LANES <= n {
                    let v = S::fma(S::load(x.add(i)), two, one);
                    S::store(y.add(i), v);
                    total = S::add(total, v);
                    i += S::LANES;
                }
                let mut sum = S::sum(total);
                if i < n {
                    let v = S::fma(S::load_first(x.add(i), n - i), two, one);
                    S::store_first(y.add(i), n - i, v);
                    while i < n {
                        sum += *y.add(i);
                        i += 1;
                    }
                }
                sum
            }
        }
    }

    simd_kernel! {
        /// Every operation of the register on `a` and `b`, one register of results after the other in `y`.
        fn every_operation<S>(a: *const f32, b: *const f32, lanes: *const i32, y: *mut f32) {
            unsafe {
                let (a, b) = (S::load(a), S::load(b));
                let results = [
                    S::add(a, b),
                    S::sub(a, b),
                    S::mul(a, b),
                    S::div(a, b),
                    S::fma(a, b, a),
                    S::max(a, b),
                    S::min(a, b),
                    S::sqrt(S::mul(a, a)),
                    S::select_gt(a, b, S::splat(1.0), S::splat(2.0)),
                    S::permute(a, lanes),
                ];
                let mut i = 0;
                while i < results.len() {
                    S::store(y.add(i * S::LANES), results[i]);
                    i += 1;
                }
            }
        }
    }

    simd_kernel! {
        /// [`Simd::transpose8`].
        fn transpose<S>(from: *const f32, from_pitch: usize, to: *mut f32, to_pitch: usize) {
            unsafe { S::transpose8(from, from_pitch, to, to_pitch) }
        }
    }

    #[test]
    fn transpose8_transposes_one_block_at_every_level() {
        let _guard = lock_level();
        let detected = level();
        let from: Vec<f32> = (0..8 * 11).map(|i| i as f32).collect();
        for limit in Level::supported() {
            set_max_level(*limit);
            let mut to = vec![-1.0f32; 8 * 13];
            // SAFETY: both buffers hold eight rows.
            unsafe { transpose(from.as_ptr(), 11, to.as_mut_ptr(), 13) };
            for (i, value) in to.iter().enumerate() {
                let (row, column) = (i / 13, i % 13);
                let want = if column < 8 { from[column * 11 + row] } else { -1.0 };
                assert_eq!(*value, want, "{limit:?}, row {row}, column {column}");
            }
        }
        set_max_level(detected);
    }

    #[test]
    fn register_operations_match_scalar_ones_at_every_level() {
        let _guard = lock_level();
        let detected = level();
        for limit in Level::supported() {
            set_max_level(*limit);
            let n = limit.lanes();
            // Small integers and quotients by powers of two, so that fused and separate rounding agree; NaN in either operand.
            let mut a: Vec<f32> = (0..n).map(|i| i as f32 - 5.0).collect();
            let mut b: Vec<f32> = (0..n).map(|i| [0.5, -2.0, 4.0][i % 3]).collect();
            (a[1], b[2]) = (f32::NAN, f32::NAN);
            let lanes: Vec<i32> = (0..n).map(|i| ((i * 5 + 3) % n) as i32).collect();
            let mut y = vec![0.0f32; 10 * n];
            // SAFETY: the inputs hold one register, the output ten.
            unsafe { every_operation(a.as_ptr(), b.as_ptr(), lanes.as_ptr(), y.as_mut_ptr()) };
            for (i, (&a_i, &b_i)) in a.iter().zip(&b).enumerate() {
                let expected = [
                    a_i + b_i,
                    a_i - b_i,
                    a_i * b_i,
                    a_i / b_i,
                    a_i * b_i + a_i,
                    if a_i > b_i { a_i } else { b_i },
                    if a_i < b_i { a_i } else { b_i },
                    a_i.abs(),
                    if a_i > b_i { 1.0 } else { 2.0 },
                    a[lanes[i] as usize],
                ];
                for (operation, expected) in expected.into_iter().enumerate() {
                    let got = y[operation * n + i];
                    assert!(
                        got == expected || (got.is_nan() && expected.is_nan()),
                        "{limit:?}, operation {operation}, lane {i}: {got} instead of {expected}"
                    );
                }
            }
        }
        set_max_level(detected);
    }

    #[test]
    fn every_level_gives_the_same_result_and_does_not_write_past_the_end() {
        let _guard = lock_level();
        let detected = level();
        for limit in Level::supported() {
            set_max_level(*limit);
            assert_eq!(level(), *limit);
            for n in [0usize, 1, 7, 8, 15, 16, 37] {
                let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
                let mut y = vec![-1.0f32; n + 20];
                // SAFETY: both buffers hold at least n elements.
                let sum = unsafe { double_plus_one(x.as_ptr(), y.as_mut_ptr(), n) };
                assert_eq!(sum, (0..n).map(|i| 2.0 * i as f32 + 1.0).sum::<f32>());
                assert!((0..n).all(|i| y[i] == 2.0 * i as f32 + 1.0));
                assert!(y[n..].iter().all(|v| *v == -1.0), "{limit:?} wrote past {n}");
            }
        }
        set_max_level(detected);
    }
}
