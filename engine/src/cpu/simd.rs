//! SIMD abstraction over vector registers of f32: a kernel is written once and compiled for AVX-512, AVX2 and plain Rust. The widest
//! level that the CPU supports is chosen at run time.
//!
//! A kernel is declared with `simd_kernel!`. All of its code must be inlined into the function with the `target_feature` attribute: no
//! `std::array::from_fn`, no closures, no calls to functions that are not `#[inline(always)]`.
use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction set that kernels are compiled for, in ascending width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Plain Rust with eight lanes, compiled for the target's baseline.
    Portable = 1,
    /// AVX2 and FMA: 16 registers of eight lanes.
    Avx2 = 2,
    /// AVX-512 F, BW, DQ and VL: 32 registers of sixteen lanes.
    Avx512 = 3,
}

static LEVEL: AtomicU8 = AtomicU8::new(0);

impl Level {
    /// f32 lanes per register.
    pub const fn lanes(self) -> usize {
        match self {
            Level::Avx512 => 16,
            Level::Avx2 | Level::Portable => 8,
        }
    }
}

/// The level in use: the widest that the CPU supports, or the limit set by [`set_max_level`].
#[inline]
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        3 => Level::Avx512,
        2 => Level::Avx2,
        1 => Level::Portable,
        _ => {
            let found = detect();
            LEVEL.store(found as u8, Ordering::Relaxed);
            found
        }
    }
}

/// Limits the level of the whole process. For tests and benches that compare levels.
pub fn set_max_level(limit: Level) {
    LEVEL.store(limit.min(detect()) as u8, Ordering::Relaxed);
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
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Lock for tests that set the level or compare bits, because the level is global to the process.
#[cfg(test)]
pub(crate) fn lock_level() -> std::sync::MutexGuard<'static, ()> {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if avx2 && avx512 {
            return Level::Avx512;
        }
        if avx2 {
            return Level::Avx2;
        }
    }
    Level::Portable
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
    /// Non-temporal store. `p` must be aligned to the register. Call [`Simd::fence`] before another thread reads the data.
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
}

/// Plain Rust with eight lanes.
#[derive(Clone, Copy)]
pub struct Portable;

macro_rules! lanes {
    ($i:ident => $e:expr) => {{
        let mut out = [0.0f32; 8];
        let mut $i = 0;
        while $i < 8 {
            out[$i] = $e;
            $i += 1;
        }
        out
    }};
}

// SAFETY: plain arithmetic on arrays needs no instruction set; valid pointers are the caller's obligation.
unsafe impl Simd for Portable {
    const LANES: usize = 8;
    type V = [f32; 8];

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> [f32; 8] {
        unsafe { p.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: [f32; 8]) {
        unsafe { p.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> [f32; 8] {
        lanes!(i => if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, n: usize, v: [f32; 8]) {
        for (i, x) in v.iter().enumerate() {
            if i < n {
                unsafe { *p.add(i) = *x }
            }
        }
    }
    #[inline(always)]
    unsafe fn stream(p: *mut f32, v: [f32; 8]) {
        unsafe { Self::store(p, v) }
    }
    #[inline(always)]
    unsafe fn fence() {}
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        lanes!(i => if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn sqrt(a: [f32; 8]) -> [f32; 8] {
        lanes!(i => a[i].sqrt())
    }
    #[inline(always)]
    unsafe fn select_gt(a: [f32; 8], b: [f32; 8], x: [f32; 8], y: [f32; 8]) -> [f32; 8] {
        lanes!(i => if a[i] > b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn permute(v: [f32; 8], lanes: *const i32) -> [f32; 8] {
        lanes!(i => v[unsafe { *lanes.add(i) as usize } & 7])
    }
    #[inline(always)]
    unsafe fn sum(v: [f32; 8]) -> f32 {
        let a = [v[0] + v[4], v[1] + v[5], v[2] + v[6], v[3] + v[7]];
        (a[0] + a[2]) + (a[1] + a[3])
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    /// AVX2 and FMA with eight lanes.
    #[derive(Clone, Copy)]
    pub struct Avx2;
    /// AVX-512 with sixteen lanes.
    #[derive(Clone, Copy)]
    pub struct Avx512;

    #[inline(always)]
    unsafe fn mask8(n: usize) -> __m256i {
        unsafe {
            let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane)
        }
    }

    // SAFETY: called only from `simd_kernel!` functions that enable avx2 and fma.
    unsafe impl Simd for Avx2 {
        const LANES: usize = 8;
        type V = __m256;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, n: usize) -> __m256 {
            unsafe { _mm256_maskload_ps(p, mask8(n)) }
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut f32, n: usize, v: __m256) {
            unsafe { _mm256_maskstore_ps(p, mask8(n), v) }
        }
        #[inline(always)]
        unsafe fn stream(p: *mut f32, v: __m256) {
            unsafe { _mm256_stream_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn fence() {
            unsafe { _mm_sfence() }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sqrt(a: __m256) -> __m256 {
            unsafe { _mm256_sqrt_ps(a) }
        }
        #[inline(always)]
        unsafe fn select_gt(a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
            unsafe { _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)) }
        }
        #[inline(always)]
        unsafe fn permute(v: __m256, lanes: *const i32) -> __m256 {
            unsafe { _mm256_permutevar8x32_ps(v, _mm256_loadu_si256(lanes.cast())) }
        }
        #[inline(always)]
        unsafe fn sum(v: __m256) -> f32 {
            unsafe {
                let q = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let d = _mm_add_ps(q, _mm_movehl_ps(q, q));
                _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps::<1>(d, d)))
            }
        }
    }

    // SAFETY: called only from `simd_kernel!` functions that enable the AVX-512 features.
    unsafe impl Simd for Avx512 {
        const LANES: usize = 16;
        type V = __m512;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn load_first(p: *const f32, n: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps(((1u32 << n) - 1) as __mmask16, p) }
        }
        #[inline(always)]
        unsafe fn store_first(p: *mut f32, n: usize, v: __m512) {
            unsafe { _mm512_mask_storeu_ps(p, ((1u32 << n) - 1) as __mmask16, v) }
        }
        #[inline(always)]
        unsafe fn stream(p: *mut f32, v: __m512) {
            unsafe { _mm512_stream_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn fence() {
            unsafe { _mm_sfence() }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sqrt(a: __m512) -> __m512 {
            unsafe { _mm512_sqrt_ps(a) }
        }
        #[inline(always)]
        unsafe fn select_gt(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
            unsafe { _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), x) }
        }
        #[inline(always)]
        unsafe fn permute(v: __m512, lanes: *const i32) -> __m512 {
            unsafe { _mm512_permutexvar_ps(_mm512_loadu_si512(lanes.cast()), v) }
        }
        #[inline(always)]
        unsafe fn sum(v: __m512) -> f32 {
            unsafe { _mm512_reduce_add_ps(v) }
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

    #[test]
    fn every_level_gives_the_same_result_and_does_not_write_past_the_end() {
        let _guard = lock_level();
        let detected = level();
        for limit in [Level::Portable, Level::Avx2, Level::Avx512] {
            set_max_level(limit);
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
