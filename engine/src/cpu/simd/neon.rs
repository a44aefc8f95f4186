//! Registers of NEON. A pair of 128-bit registers holds eight lanes: grouped convolutions need as many, and a tile of 6 pixels by two
//! pairs fills 24 of the 32 registers with sums, which leaves room for the weights.
use super::Simd;
use std::arch::aarch64::*;

/// NEON with eight lanes in a pair of registers.
#[derive(Clone, Copy)]
pub struct Neon;

macro_rules! pairwise {
    ($operation:ident, $($pair:ident),*) => {
        float32x4x2_t($operation($($pair.0),*), $operation($($pair.1),*))
    };
}

/// The first `n` lanes from `p`, and zeros.
#[inline(always)]
unsafe fn load_up_to_4(p: *const f32, n: usize) -> float32x4_t {
    let zero = vdup_n_f32(0.0);
    // SAFETY: `n` elements are readable, the caller's obligation.
    unsafe {
        match n {
            0 => vcombine_f32(zero, zero),
            1 => vcombine_f32(vld1_lane_f32::<0>(p, zero), zero),
            2 => vcombine_f32(vld1_f32(p), zero),
            3 => vcombine_f32(vld1_f32(p), vld1_lane_f32::<0>(p.add(2), zero)),
            _ => vld1q_f32(p),
        }
    }
}

/// Stores the first `n` lanes.
#[inline(always)]
unsafe fn store_up_to_4(p: *mut f32, n: usize, v: float32x4_t) {
    // SAFETY: `n` elements are writable, the caller's obligation.
    unsafe {
        match n {
            0 => {}
            1 => vst1q_lane_f32::<0>(p, v),
            2 => vst1_f32(p, vget_low_f32(v)),
            3 => {
                vst1_f32(p, vget_low_f32(v));
                vst1q_lane_f32::<2>(p.add(2), v);
            }
            _ => vst1q_f32(p, v),
        }
    }
}

/// Byte indices, for a table lookup, of four lanes from `lanes`.
#[inline(always)]
unsafe fn byte_indices(lanes: *const i32) -> uint8x16_t {
    // SAFETY: four indices are readable, the caller's obligation.
    let lanes = unsafe { vld1q_s32(lanes) };
    vreinterpretq_u8_s32(vmlaq_n_s32(vdupq_n_s32(0x0302_0100), lanes, 0x0404_0404))
}

// SAFETY: NEON is part of the baseline of aarch64; valid pointers are the caller's obligation.
unsafe impl Simd for Neon {
    const LANES: usize = 8;
    type V = float32x4x2_t;

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4x2_t {
        float32x4x2_t(vdupq_n_f32(x), vdupq_n_f32(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> float32x4x2_t {
        unsafe { float32x4x2_t(vld1q_f32(p), vld1q_f32(p.add(4))) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: float32x4x2_t) {
        unsafe {
            vst1q_f32(p, v.0);
            vst1q_f32(p.add(4), v.1);
        }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> float32x4x2_t {
        unsafe {
            match n {
                8.. => Self::load(p),
                4.. => float32x4x2_t(vld1q_f32(p), load_up_to_4(p.add(4), n - 4)),
                _ => float32x4x2_t(load_up_to_4(p, n), vdupq_n_f32(0.0)),
            }
        }
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, n: usize, v: float32x4x2_t) {
        unsafe {
            match n {
                8.. => Self::store(p, v),
                4.. => {
                    vst1q_f32(p, v.0);
                    store_up_to_4(p.add(4), n - 4, v.1);
                }
                _ => store_up_to_4(p, n, v.0),
            }
        }
    }
    #[inline(always)]
    unsafe fn stream(p: *mut f32, v: float32x4x2_t) {
        unsafe { Self::store(p, v) }
    }
    #[inline(always)]
    unsafe fn fence() {}
    #[inline(always)]
    unsafe fn add(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        pairwise!(vaddq_f32, a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        pairwise!(vsubq_f32, a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        pairwise!(vmulq_f32, a, b)
    }
    #[inline(always)]
    unsafe fn div(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        pairwise!(vdivq_f32, a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4x2_t, b: float32x4x2_t, c: float32x4x2_t) -> float32x4x2_t {
        pairwise!(vfmaq_f32, c, a, b)
    }
    // FMAX and FMIN return NaN where either operand is NaN, so these compare and select instead.
    #[inline(always)]
    unsafe fn max(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        unsafe { Self::select_gt(a, b, a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        unsafe { Self::select_gt(b, a, a, b) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: float32x4x2_t) -> float32x4x2_t {
        pairwise!(vsqrtq_f32, a)
    }
    #[inline(always)]
    unsafe fn select_gt(
        a: float32x4x2_t,
        b: float32x4x2_t,
        x: float32x4x2_t,
        y: float32x4x2_t,
    ) -> float32x4x2_t {
        float32x4x2_t(vbslq_f32(vcgtq_f32(a.0, b.0), x.0, y.0), vbslq_f32(vcgtq_f32(a.1, b.1), x.1, y.1))
    }
    #[inline(always)]
    unsafe fn permute(v: float32x4x2_t, lanes: *const i32) -> float32x4x2_t {
        let table = uint8x16x2_t(vreinterpretq_u8_f32(v.0), vreinterpretq_u8_f32(v.1));
        let (low, high) = unsafe { (byte_indices(lanes), byte_indices(lanes.add(4))) };
        float32x4x2_t(
            vreinterpretq_f32_u8(vqtbl2q_u8(table, low)),
            vreinterpretq_f32_u8(vqtbl2q_u8(table, high)),
        )
    }
    #[inline(always)]
    unsafe fn sum(v: float32x4x2_t) -> f32 {
        let quad = vaddq_f32(v.0, v.1);
        let pair = vadd_f32(vget_low_f32(quad), vget_high_f32(quad));
        vget_lane_f32::<0>(pair) + vget_lane_f32::<1>(pair)
    }
}
