//! Register tile of the weight gradient: an outer product summed over pixels.
use crate::cpu::simd::{Level, Simd, prefetch, simd_kernel};
use crate::ops::conv::cpu::half::words::{F32Words, WordMulAdd};
use crate::ops::conv::cpu::prefetch::PrefetchCursor;

/// Extents of the pixels that a tile sums over.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops::conv::cpu) struct PixelLoop {
    pub(in crate::ops::conv::cpu) images: usize,
    pub(in crate::ops::conv::cpu) rows: usize,
    pub(in crate::ops::conv::cpu) columns: usize,
}

/// Operand of the outer product: first element, and the strides of images, rows and pixels.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops::conv::cpu) struct OuterOperand {
    pub(in crate::ops::conv::cpu) ptr: *const f32,
    pub(in crate::ops::conv::cpu) image: usize,
    pub(in crate::ops::conv::cpu) row: usize,
    pub(in crate::ops::conv::cpu) pixel: usize,
}

/// Destination of the sums: rows `pitch` apart, `last` lanes in the last register. With `add`, sums are accumulated.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops::conv::cpu) struct OuterSum {
    pub(in crate::ops::conv::cpu) ptr: *mut f32,
    pub(in crate::ops::conv::cpu) pitch: usize,
    pub(in crate::ops::conv::cpu) last: usize,
    pub(in crate::ops::conv::cpu) add: bool,
}

/// Scalars of a full tile of `registers` registers.
pub(in crate::ops::conv::cpu) fn rows(level: Level, registers: usize) -> usize {
    match level {
        Level::Avx512 => [12, 12, 8][registers - 1],
        Level::Neon => [12, 6, 4][registers - 1],
        Level::Avx2 | Level::Portable => [12, 6, 3][registers - 1],
    }
}

/// Sums of [`outer`], over vectors of full registers (`FULL`) or with `last` lanes in the last one.
///
/// # Safety
/// The conditions of [`outer`].
#[inline(always)]
unsafe fn accumulate<S: Simd, M: WordMulAdd<S>, const MR: usize, const NV: usize, const FULL: bool>(
    pixels: PixelLoop,
    scalars: OuterOperand,
    vectors: OuterOperand,
    last: usize,
    ahead: PrefetchCursor,
) -> [[S::V; NV]; MR] {
    let mut next = ahead.ptr;
    let mut acc = [[S::splat(0.0); NV]; MR];
    for n in 0..pixels.images {
        for r in 0..pixels.rows {
            let mut s = scalars.ptr.add(n * scalars.image + r * scalars.row);
            let mut x = vectors.ptr.add(n * vectors.image + r * vectors.row);
            for _ in 0..pixels.columns {
                let mut v = [S::splat(0.0); NV];
                for i in 0..NV {
                    let p = x.add(i * S::LANES);
                    v[i] = if FULL || i + 1 < NV { S::load(p) } else { S::load_first(p, last) };
                }
                for j in 0..MR {
                    let a = S::splat(*s.add(j));
                    for i in 0..NV {
                        acc[j][i] = M::add(a, v[i], acc[j][i]);
                    }
                }
                prefetch(next);
                next = next.wrapping_add(ahead.step);
                s = s.wrapping_add(scalars.pixel);
                x = x.wrapping_add(vectors.pixel);
            }
        }
    }
    acc
}

/// `sum[j][..] (+)= sum over pixels of scalars[pixel][j] * vectors[pixel][..]` for `MR` scalars and `NV` registers. Prefetches along
/// `ahead`.
///
/// # Safety
/// Both operands must be readable at every pixel of the loop, the sum writable. Only inside a function that enables the instruction set.
#[inline(always)]
unsafe fn outer_sum<S: Simd, M: WordMulAdd<S>, const MR: usize, const NV: usize>(
    pixels: PixelLoop,
    scalars: OuterOperand,
    vectors: OuterOperand,
    sum: OuterSum,
    ahead: PrefetchCursor,
) {
    // Masked loads cost AVX2 a register and time: use them only where needed.
    let acc = if sum.last == S::LANES {
        accumulate::<S, M, MR, NV, true>(pixels, scalars, vectors, sum.last, ahead)
    } else {
        accumulate::<S, M, MR, NV, false>(pixels, scalars, vectors, sum.last, ahead)
    };
    for j in 0..MR {
        for i in 0..NV {
            let p = sum.ptr.add(j * sum.pitch + i * S::LANES);
            let lanes = if i + 1 == NV { sum.last } else { S::LANES };
            let before = if sum.add { S::load_first(p, lanes) } else { S::splat(0.0) };
            S::store_first(p, lanes, S::add(before, acc[j][i]));
        }
    }
}

simd_kernel! {
    /// [`outer_sum`] of f32.
    ///
    /// # Safety
    /// Both operands must be readable at every pixel of the loop, the sum writable.
    fn outer<S at level, const MR: usize, const NV: usize>(
        pixels: PixelLoop,
        scalars: OuterOperand,
        vectors: OuterOperand,
        sum: OuterSum,
        ahead: PrefetchCursor,
    ) {
        unsafe { outer_sum::<S, F32Words, MR, NV>(pixels, scalars, vectors, sum, ahead) }
    }
}

/// [`outer_sum`] of pairs of bf16.
///
/// # Safety
/// The conditions of [`outer`], on a CPU with AVX-512 BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn outer_bf16<const MR: usize, const NV: usize>(
    pixels: PixelLoop,
    scalars: OuterOperand,
    vectors: OuterOperand,
    sum: OuterSum,
    ahead: PrefetchCursor,
) {
    use crate::cpu::simd::Avx512;
    // SAFETY: this function enables the features; the rest is the caller's obligation.
    unsafe {
        outer_sum::<Avx512, crate::ops::conv::cpu::half::words::Bf16Pairs, MR, NV>(
            pixels, scalars, vectors, sum, ahead,
        )
    }
}

/// Not called: no other CPU has the instructions.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn outer_bf16<const MR: usize, const NV: usize>(
    _: PixelLoop,
    _: OuterOperand,
    _: OuterOperand,
    _: OuterSum,
    _: PrefetchCursor,
) {
    unreachable!("bf16 tiles need a CPU with bf16 instructions")
}

/// Runs the tile of `m` scalars by `registers` registers. `m` is at most [`rows`] of the widest level.
///
/// # Safety
/// The conditions of [`outer`]. With `pairs`, the CPU must have AVX-512 BF16.
#[inline]
pub(in crate::ops::conv::cpu) unsafe fn run(
    level: Level,
    pairs: bool,
    m: usize,
    registers: usize,
    pixels: PixelLoop,
    scalars: OuterOperand,
    vectors: OuterOperand,
    sum: OuterSum,
    ahead: PrefetchCursor,
) {
    macro_rules! of {
        ($nv:literal: $($m:literal)*) => {
            match m {
                $($m if pairs => outer_bf16::<$m, $nv>(pixels, scalars, vectors, sum, ahead),)*
                $($m => outer::<$m, $nv>(level, pixels, scalars, vectors, sum, ahead),)*
                _ => unreachable!("no tile of {m} scalars by {} registers", $nv),
            }
        };
    }
    match registers {
        1 => of!(1: 1 2 3 4 5 6 7 8 9 10 11 12),
        2 => of!(2: 1 2 3 4 5 6 7 8 9 10 11 12),
        3 => of!(3: 1 2 3 4 5 6 7 8),
        _ => unreachable!("no tile of {registers} registers"),
    }
}
