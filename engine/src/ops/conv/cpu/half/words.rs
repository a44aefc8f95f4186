//! 32-bit words, the elements that the tiles multiply: one f32, or a pair of bf16.
//!
//! A pair is two neighbouring channels (or, in the weight gradient, two neighbouring pixels), so a bf16 image has half as many words as
//! elements. Plans, panels, bands and taps move words; only the tiles interpret them. Words are stored as `f32` with arbitrary bits.
use crate::cpu::scratch;
use crate::cpu::simd::Simd;
use crate::dtype::bf16;
use rayon::prelude::*;

/// Multiply-add of two registers of words with accumulation in f32.
pub(in crate::ops::conv::cpu) trait WordMulAdd<S: Simd> {
    /// `sum + a * b` for each word.
    ///
    /// # Safety
    /// The conditions of [`Simd`]: only inside a function that enables the instruction set.
    unsafe fn add(a: S::V, b: S::V, sum: S::V) -> S::V;
}

/// Words of one f32.
pub(in crate::ops::conv::cpu) struct F32Words;

impl<S: Simd> WordMulAdd<S> for F32Words {
    #[inline(always)]
    unsafe fn add(a: S::V, b: S::V, sum: S::V) -> S::V {
        S::fma(a, b, sum)
    }
}

/// Words of two bf16, whose two products are added.
#[cfg(target_arch = "x86_64")]
pub(in crate::ops::conv::cpu) struct Bf16Pairs;

#[cfg(target_arch = "x86_64")]
impl WordMulAdd<crate::cpu::simd::Avx512> for Bf16Pairs {
    #[inline(always)]
    unsafe fn add(a: Register, b: Register, sum: Register) -> Register {
        use std::arch::x86_64::{__m512bh, _mm512_dpbf16_ps};
        // SAFETY: both types have the same size and accept every bit pattern; the instruction set is the caller's obligation.
        unsafe {
            let (a, b) =
                (std::mem::transmute::<Register, __m512bh>(a), std::mem::transmute::<Register, __m512bh>(b));
            _mm512_dpbf16_ps(sum, a, b)
        }
    }
}

#[cfg(target_arch = "x86_64")]
type Register = std::arch::x86_64::__m512;

/// True if the CPU has AVX-512 BF16 and the SIMD level allows it.
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return crate::cpu::simd::level() == crate::cpu::simd::Level::Avx512
        && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Pixels that a task pairs at a time.
const CHUNK: usize = 4096;

/// Calls `f` with pixels of `channels` channels as words: in place if the number of channels is even and the slice aligned, otherwise a
/// copy, with a channel of zeros appended to an odd number.
pub(in crate::ops::conv::cpu) fn with_channel_pairs<R>(
    x: &[bf16],
    channels: usize,
    f: impl FnOnce(&[f32]) -> R,
) -> R {
    if let (true, Ok(words)) = (channels.is_multiple_of(2), bytemuck::try_cast_slice(x)) {
        return f(words);
    }
    let half = channels.div_ceil(2);
    scratch::with(x.len() / channels * half, |words: &mut [f32]| {
        let pairs: &mut [[bf16; 2]] = bytemuck::cast_slice_mut(words);
        pairs.par_chunks_mut(half * CHUNK).zip(x.par_chunks(channels * CHUNK)).for_each(|(to, from)| {
            for (to, from) in to.chunks_exact_mut(half).zip(from.chunks_exact(channels)) {
                for (to, from) in to.iter_mut().zip(from.chunks(2)) {
                    *to = [from[0], from.get(1).copied().unwrap_or(bf16::ZERO)];
                }
            }
        });
        f(words)
    })
}

/// Calls `f` with words that pair neighbouring rows of `len` elements. An odd last row is paired with zeros.
pub(in crate::ops::conv::cpu) fn with_row_pairs<R>(m: &[bf16], len: usize, f: impl FnOnce(&[f32]) -> R) -> R {
    scratch::with((m.len() / len).div_ceil(2) * len, |words: &mut [f32]| {
        let to: &mut [u32] = bytemuck::cast_slice_mut(words);
        pair_rows(bytemuck::cast_slice(m), len, to);
        f(words)
    })
}

/// [`with_row_pairs`] into `out`.
pub(in crate::ops::conv::cpu) fn pair_rows(m: &[u16], len: usize, out: &mut [u32]) {
    for (out, rows) in out.chunks_exact_mut(len).zip(m.chunks(2 * len)) {
        let (low, high) = rows.split_at(len);
        if high.is_empty() {
            out.iter_mut().zip(low).for_each(|(out, low)| *out = u32::from(*low));
        }
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            *out = u32::from(*low) | u32::from(*high) << 16;
        }
    }
}
