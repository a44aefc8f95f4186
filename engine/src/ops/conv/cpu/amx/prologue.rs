//! Pixels of bf16, copied to whole steps of channels, with batch norm and activation.
use super::tiles::STEP;
use crate::cpu::cast::cast;
use crate::cpu::scratch;
use crate::dtype::bf16;
use crate::ops::conv::cpu::Prologue;
use std::arch::x86_64::*;
use std::ops::Range;

/// Copies the channels `channels` of pixels that are `pitch` elements apart to pixels of whole steps, padded with zeros. The prologue is
/// applied to each element, and the result rounded to bf16.
pub(super) fn load_pixels(
    x: &[bf16],
    pitch: usize,
    prologue: Option<Prologue>,
    channels: Range<usize>,
    out: &mut [bf16],
) {
    let padded = channels.len().next_multiple_of(STEP);
    let pixel = |i: usize| &x[i * pitch..][channels.clone()];
    let Some(prologue) = prologue else {
        if pitch == padded && channels.len() == padded {
            return out.copy_from_slice(&x[..out.len()]);
        }
        for (i, out) in out.chunks_exact_mut(padded).enumerate() {
            let (copy, rest) = out.split_at_mut(channels.len());
            copy.copy_from_slice(pixel(i));
            rest.fill(bf16::ZERO);
        }
        return;
    };
    let prologue = Prologue {
        scale: &prologue.scale[channels.clone()],
        shift: &prologue.shift[channels.clone()],
        ..prologue
    };
    if let Some(bounds) = prologue.bounds() {
        for (i, out) in out.chunks_exact_mut(padded).enumerate() {
            // SAFETY: the CPU has AVX-512 with bf16, as the functions of this module require.
            unsafe { clamp_pixel(pixel(i), &prologue, bounds, out) };
        }
        return;
    }
    scratch::with(2 * channels.len(), |wide: &mut [f32]| {
        let (input, result) = wide.split_at_mut(channels.len());
        for (i, out) in out.chunks_exact_mut(padded).enumerate() {
            let (copy, rest) = out.split_at_mut(channels.len());
            cast(pixel(i), input);
            prologue.apply(input, result);
            cast(result, copy);
            rest.fill(bf16::ZERO);
        }
    });
}

/// Applies a prologue that clamps to one pixel.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn clamp_pixel(x: &[bf16], prologue: &Prologue, bounds: [f32; 2], out: &mut [bf16]) {
    let c = x.len();
    assert!(prologue.scale.len() == c && prologue.shift.len() == c && out.len() == c.next_multiple_of(STEP));
    let (low, high) = (_mm512_set1_ps(bounds[0]), _mm512_set1_ps(bounds[1]));
    for i in (0..c).step_by(STEP) {
        let mask = u32::MAX >> (STEP - STEP.min(c - i));
        // SAFETY: masks end at the last channel; `out` has whole steps.
        unsafe {
            let elements = _mm512_maskz_loadu_epi16(mask, x.as_ptr().add(i).cast());
            let words = [
                _mm512_cvtepu16_epi32(_mm512_castsi512_si256(elements)),
                _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(elements)),
            ];
            let mut halves = [_mm512_setzero_ps(); 2];
            for k in 0..2 {
                let mask = (mask >> (16 * k)) as __mmask16;
                let scale = _mm512_maskz_loadu_ps(mask, prologue.scale.as_ptr().wrapping_add(i + 16 * k));
                let shift = _mm512_maskz_loadu_ps(mask, prologue.shift.as_ptr().wrapping_add(i + 16 * k));
                let x = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words[k]));
                // Two roundings, as in the pass that this one replaces.
                let x = _mm512_add_ps(_mm512_mul_ps(x, scale), shift);
                // The second operand of both is the result where it is NaN.
                halves[k] = _mm512_maskz_mov_ps(mask, _mm512_min_ps(high, _mm512_max_ps(low, x)));
            }
            let rounded = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(halves[1], halves[0]));
            _mm512_storeu_si512(out.as_mut_ptr().add(i).cast(), rounded);
        }
    }
}
