//! Words of two bf16: pairs of neighbouring rows, and transposed squares of words.
use super::tiles::BLOCK;
use crate::cpu::simd::{Avx512, Simd};
use crate::dtype::bf16;
use std::arch::x86_64::*;

/// Side of a square of words: the rows of a tile.
pub(super) const SQUARE: usize = 16;

/// Transposes 16x16 words, whose rows are `from_pitch` and `to_pitch` words apart.
///
/// # Safety
/// `from` must be readable and `to` writable, without alignment, on a CPU with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn transpose<T>(from: *const T, from_pitch: usize, to: *mut T, to_pitch: usize) {
    const { assert!(size_of::<T>() == 4) };
    for (i, j) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
        // SAFETY: moves words without arithmetic; the caller's obligation.
        unsafe {
            let (from, to) = (from.add(i * from_pitch + j).cast(), to.add(j * to_pitch + i).cast());
            Avx512::transpose8(from, from_pitch, to, to_pitch);
        }
    }
}

/// Pairs two rows of a block: word `j` of the result, which has its halves `half_pitch` words apart, is `low[j] | high[j] << 16`. Missing
/// elements are zero.
///
/// # Safety
/// `out` must be writable for both halves, on a CPU with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn pair(low: &[bf16], high: &[bf16], out: *mut u32, half_pitch: usize) {
    let mask = |len: usize| if len == 0 { 0 } else { u32::MAX >> (BLOCK - len) };
    // SAFETY: masks end at the last element; the caller's obligation.
    unsafe {
        let low = _mm512_maskz_loadu_epi16(mask(low.len()), low.as_ptr().cast());
        let high = _mm512_maskz_loadu_epi16(mask(high.len()), high.as_ptr().cast());
        let [low_first, high_first] = [_mm512_castsi512_si256(low), _mm512_castsi512_si256(high)];
        let [low_second, high_second] =
            [_mm512_extracti64x4_epi64::<1>(low), _mm512_extracti64x4_epi64::<1>(high)];
        _mm512_storeu_si512(out.cast(), words(low_first, high_first));
        _mm512_storeu_si512(out.add(half_pitch).cast(), words(low_second, high_second));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn words(low: __m256i, high: __m256i) -> __m512i {
    _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high)))
}
