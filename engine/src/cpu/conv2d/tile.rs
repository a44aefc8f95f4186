//! The register tile of forward and data gradient: a few pixels times a few registers of channels.
use crate::cpu::simd::{Level, simd_kernel};

/// Most pixels of any tile.
pub(super) const MAX_ROWS: usize = 12;

/// One contiguous run of the reduction: `len` channels at `offset` from each pixel's pointer, against as many rows
/// of the weight panel from `row` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    pub(super) offset: usize,
    pub(super) row: usize,
    pub(super) len: usize,
}

/// How a tile is written: how many of its columns exist, and whether to go around the caches.
#[derive(Clone, Copy)]
pub(super) struct Store {
    pub(super) columns: usize,
    pub(super) stream: bool,
}

/// Pixels of a full tile that is `registers` wide: as many accumulators as the registers of the level can hold.
pub(super) fn rows(level: Level, registers: usize) -> usize {
    match level {
        Level::Avx512 => [12, 12, 8, 6][registers - 1],
        Level::Avx2 | Level::Portable => [12, 6, 3, 2][registers - 1],
    }
}

simd_kernel! {
    /// `y[j][..] = bias[..] + sum over taps of x[j][offset + i] * panel[row + i][..]` for `MR` pixels and `NV`
    /// registers of columns.
    ///
    /// # Safety
    /// `x` and `y` point to `MR` pointers; the panel has `NV * LANES` columns, `bias` (or null) as many elements.
    fn tile<S at level, const MR: usize, const NV: usize>(
        x: *const *const f32,
        taps: &[Tap],
        panel: *const f32,
        bias: *const f32,
        y: *const *mut f32,
        store: Store,
    ) {
        unsafe {
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
                            acc[j][v] = S::fma(a, w[v], acc[j][v]);
                        }
                    }
                    weights = weights.add(NV * S::LANES);
                    i += 1;
                }
            }
            if store.stream {
                for j in 0..MR {
                    for v in 0..NV {
                        S::stream((*y.add(j)).add(v * S::LANES), acc[j][v]);
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

/// The tile of `m` pixels and `registers` registers: `m` is at most [`rows`] of the widest level.
///
/// # Safety
/// As for the kernel: `x` and `y` hold `m` pointers, the panel has `registers` registers of columns.
#[inline]
pub(super) unsafe fn run(
    level: Level,
    m: usize,
    registers: usize,
    x: *const *const f32,
    taps: &[Tap],
    panel: *const f32,
    bias: *const f32,
    y: *const *mut f32,
    store: Store,
) {
    macro_rules! of {
        ($nv:literal: $($m:literal)*) => {
            match m {
                $($m => tile::<$m, $nv>(level, x, taps, panel, bias, y, store),)*
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
    /// Makes streamed stores visible to other threads.
    pub(super) fn fence<S at level>() {
        unsafe { S::fence() }
    }
}
