//! Register tile of the forward pass and the data gradient: a few pixels by a few registers of channels.
use crate::cpu::simd::{Level, Simd, prefetch, simd_kernel};
use crate::dtype::bf16;
use crate::ops::conv::cpu::half::words::{F32Words, WordMulAdd};
use crate::ops::conv::cpu::prefetch::PrefetchCursor;

/// Most pixels of a tile.
pub(in crate::ops::conv::cpu) const MAX_ROWS: usize = 12;

/// Contiguous run of the reduction: `len` channels at `offset` from each pixel's pointer, times as many rows of the weight panel from
/// `row` on.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops::conv::cpu) struct Tap {
    pub(in crate::ops::conv::cpu) offset: usize,
    pub(in crate::ops::conv::cpu) row: usize,
    pub(in crate::ops::conv::cpu) len: usize,
}

/// How a tile is stored: number of valid columns, and the kind of the stores.
#[derive(Clone, Copy)]
pub(in crate::ops::conv::cpu) struct TileStore {
    pub(in crate::ops::conv::cpu) columns: usize,
    pub(in crate::ops::conv::cpu) kind: StoreKind,
}

/// Kind of the stores of a tile.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::ops::conv::cpu) enum StoreKind {
    Cached,
    /// Non-temporal: every column is valid, and the pointers are aligned to a register.
    Stream,
    /// Adds to what is there, in f32, where every column is valid.
    Add,
}

impl TileStore {
    /// Stores to outputs of a convolution.
    pub(in crate::ops::conv::cpu) fn outputs(columns: usize, stream: bool) -> TileStore {
        TileStore { columns, kind: if stream { StoreKind::Stream } else { StoreKind::Cached } }
    }
}

/// Pixels of a full tile of `registers` registers: as many as the level has registers for accumulators.
pub(in crate::ops::conv::cpu) fn rows(level: Level, registers: usize) -> usize {
    match level {
        Level::Avx512 => [12, 12, 8, 6][registers - 1],
        Level::Neon => [12, 6, 4, 2][registers - 1],
        Level::Avx2 | Level::Portable => [12, 6, 3, 2][registers - 1],
    }
}

/// `bias[..] + sum over taps of x[j][offset + i] * panel[row + i][..]` for `MR` pixels and `NV` registers of columns.
/// Prefetches along `ahead`, a step per channel.
///
/// # Safety
/// The conditions of [`run`], inside a function that enables the instruction set.
#[inline(always)]
unsafe fn sums<S: Simd, M: WordMulAdd<S>, const MR: usize, const NV: usize>(
    x: *const *const f32,
    taps: &[Tap],
    panel: *const f32,
    bias: *const f32,
    ahead: PrefetchCursor,
) -> [[S::V; NV]; MR] {
    let mut next = ahead.ptr;
    let mut pixel = [std::ptr::null::<f32>(); MR];
    for j in 0..MR {
        pixel[j] = *x.add(j);
    }
    let mut acc = [[S::splat(0.0); NV]; MR];
    if !bias.is_null() {
        for v in 0..NV {
            let b = S::load(bias.add(v * S::LANES));
            for j in 0..MR {
                acc[j][v] = b;
            }
        }
    }
    for tap in taps {
        let mut weights = panel.add(tap.row * NV * S::LANES);
        let mut i = tap.offset;
        let end = tap.offset + tap.len;
        while i < end {
            let mut w = [S::splat(0.0); NV];
            for v in 0..NV {
                w[v] = S::load(weights.add(v * S::LANES));
            }
            for j in 0..MR {
                let a = S::splat(*pixel[j].add(i));
                for v in 0..NV {
                    acc[j][v] = M::add(a, w[v], acc[j][v]);
                }
            }
            prefetch(next);
            next = next.wrapping_add(ahead.step);
            weights = weights.add(NV * S::LANES);
            i += 1;
        }
    }
    acc
}

simd_kernel! {
    /// Tile in f32.
    ///
    /// # Safety
    /// The conditions of [`run`].
    fn tile<S at level, const MR: usize, const NV: usize>(
        x: *const *const f32,
        taps: &[Tap],
        panel: *const f32,
        bias: *const f32,
        y: *const *mut f32,
        store: TileStore,
        ahead: PrefetchCursor,
    ) {
        unsafe {
            let acc = sums::<S, F32Words, MR, NV>(x, taps, panel, bias, ahead);
            if store.kind == StoreKind::Stream {
                for j in 0..MR {
                    for v in 0..NV {
                        S::stream((*y.add(j)).add(v * S::LANES), acc[j][v]);
                    }
                }
            } else if store.kind == StoreKind::Add {
                for j in 0..MR {
                    for v in 0..NV {
                        let to = (*y.add(j)).add(v * S::LANES);
                        S::store(to, S::add(S::load(to), acc[j][v]));
                    }
                }
            } else if store.columns == NV * S::LANES {
                for j in 0..MR {
                    for v in 0..NV {
                        S::store((*y.add(j)).add(v * S::LANES), acc[j][v]);
                    }
                }
            } else {
                for j in 0..MR {
                    for v in 0..NV {
                        let left = store.columns.saturating_sub(v * S::LANES).min(S::LANES);
                        S::store_first((*y.add(j)).add(v * S::LANES), left, acc[j][v]);
                    }
                }
            }
        }
    }
}

/// Tile of bf16 pairs, with results rounded to bf16.
///
/// # Safety
/// The conditions of [`run`], on a CPU with AVX-512 BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn tile_bf16<const MR: usize, const NV: usize>(
    x: *const *const f32,
    taps: &[Tap],
    panel: *const f32,
    bias: *const f32,
    y: *const *mut bf16,
    store: TileStore,
    ahead: PrefetchCursor,
) {
    use crate::cpu::simd::Avx512;
    use std::arch::x86_64::*;
    // SAFETY: this function enables the features; the rest is the caller's obligation.
    unsafe {
        let acc = sums::<Avx512, crate::ops::conv::cpu::half::words::Bf16Pairs, MR, NV>(
            x, taps, panel, bias, ahead,
        );
        for j in 0..MR {
            for v in 0..NV {
                let p: *mut __m256i = (*y.add(j)).add(v * Avx512::LANES).cast();
                let half = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(acc[j][v]));
                if store.kind == StoreKind::Stream {
                    _mm256_stream_si256(p, half);
                } else if store.columns == NV * Avx512::LANES {
                    _mm256_storeu_si256(p, half);
                } else {
                    let left = store.columns.saturating_sub(v * Avx512::LANES).min(Avx512::LANES);
                    _mm256_mask_storeu_epi16(p.cast(), ((1u32 << left) - 1) as __mmask16, half);
                }
            }
        }
    }
}

/// Output element of a tile. It determines the content of the words of source and panel.
pub(in crate::ops::conv::cpu) trait TileOutput: Copy + 'static {
    /// Runs the kernel.
    ///
    /// # Safety
    /// The conditions of [`run`].
    unsafe fn tile<const MR: usize, const NV: usize>(
        level: Level,
        x: *const *const f32,
        taps: &[Tap],
        panel: *const f32,
        bias: *const f32,
        y: *const *mut Self,
        store: TileStore,
        ahead: PrefetchCursor,
    );
}

impl TileOutput for f32 {
    #[inline(always)]
    unsafe fn tile<const MR: usize, const NV: usize>(
        level: Level,
        x: *const *const f32,
        taps: &[Tap],
        panel: *const f32,
        bias: *const f32,
        y: *const *mut f32,
        store: TileStore,
        ahead: PrefetchCursor,
    ) {
        // SAFETY: the caller's obligation.
        unsafe { tile::<MR, NV>(level, x, taps, panel, bias, y, store, ahead) }
    }
}

#[cfg(target_arch = "x86_64")]
impl TileOutput for bf16 {
    #[inline(always)]
    unsafe fn tile<const MR: usize, const NV: usize>(
        _: Level,
        x: *const *const f32,
        taps: &[Tap],
        panel: *const f32,
        bias: *const f32,
        y: *const *mut bf16,
        store: TileStore,
        ahead: PrefetchCursor,
    ) {
        // SAFETY: the caller's obligation; bf16 is only used on CPUs with the instructions.
        unsafe { tile_bf16::<MR, NV>(x, taps, panel, bias, y, store, ahead) }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl TileOutput for bf16 {
    unsafe fn tile<const MR: usize, const NV: usize>(
        _: Level,
        _: *const *const f32,
        _: &[Tap],
        _: *const f32,
        _: *const f32,
        _: *const *mut bf16,
        _: TileStore,
        _: PrefetchCursor,
    ) {
        unreachable!("bf16 tiles need a CPU with bf16 instructions")
    }
}

/// Runs the tile of `m` pixels by `registers` registers. `m` is at most [`rows`] of the widest level.
///
/// # Safety
/// `x` and `y` hold `m` pointers, the panel has `registers` registers of columns, and `bias` as many elements or is null. bf16 needs a
/// CPU with AVX-512 BF16.
#[inline]
pub(in crate::ops::conv::cpu) unsafe fn run<T: TileOutput>(
    level: Level,
    m: usize,
    registers: usize,
    x: *const *const f32,
    taps: &[Tap],
    panel: *const f32,
    bias: *const f32,
    y: *const *mut T,
    store: TileStore,
) {
    // SAFETY: the caller's obligation.
    unsafe {
        run_ahead(level, m, registers, x, taps, panel, bias, y, store, PrefetchCursor::none(panel));
    }
}

/// [`run`] that prefetches along `ahead`, a step per channel of a tap.
///
/// # Safety
/// The conditions of [`run`].
#[inline]
pub(in crate::ops::conv::cpu) unsafe fn run_ahead<T: TileOutput>(
    level: Level,
    m: usize,
    registers: usize,
    x: *const *const f32,
    taps: &[Tap],
    panel: *const f32,
    bias: *const f32,
    y: *const *mut T,
    store: TileStore,
    ahead: PrefetchCursor,
) {
    macro_rules! of {
        ($nv:literal: $($m:literal)*) => {
            match m {
                $($m => T::tile::<$m, $nv>(level, x, taps, panel, bias, y, store, ahead),)*
                _ => unreachable!("no tile of {m} pixels by {} registers", $nv),
            }
        };
    }
    match registers {
        1 => of!(1: 1 2 3 4 5 6 7 8 9 10 11 12),
        2 => of!(2: 1 2 3 4 5 6 7 8 9 10 11 12),
        3 => of!(3: 1 2 3 4 5 6 7 8),
        4 => of!(4: 1 2 3 4 5 6),
        _ => unreachable!("no tile of {registers} registers"),
    }
}

simd_kernel! {
    /// Makes non-temporal stores visible to other threads.
    pub(in crate::ops::conv::cpu) fn fence<S at level>() {
        unsafe { S::fence() }
    }
}
