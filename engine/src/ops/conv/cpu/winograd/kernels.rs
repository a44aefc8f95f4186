//! Two-dimensional transforms of tiles and weights: the one-dimensional transform of the rows, then of the columns.
use super::tiles::TILE;
use super::transform::{self, POINTS, uses};
use crate::cpu::simd::{Level, Simd, prefetch, simd_kernel};
use std::mem::MaybeUninit;

/// Points of the two-dimensional transform.
pub(super) const PLANES: usize = POINTS * POINTS;
/// Most tiles of a run that one call of [`input`] transforms.
pub(super) const MAX_RUN: usize = 8;
/// Most lanes of a register.
const MAX_LANES: usize = 16;
/// Pixel columns of the longest run.
const STRIP_COLUMNS: usize = MAX_RUN * TILE + 2;
/// Input channels per step of [`forward_weight`], the block size of [`Simd::transpose8`].
const WEIGHT_CHANNELS: usize = 8;
/// Elements of a cache line.
const LINE: usize = 64 / size_of::<f32>();
/// Output channels that [`data_gradient_weight`] prefetches ahead: their weights are too far apart for the hardware.
const ROWS_AHEAD: usize = 3;
/// Most output channels of a weight panel: three registers.
const MAX_PANEL: usize = 3 * MAX_LANES;

/// Temporary memory aligned to cache lines: registers that cross lines cost twice.
#[repr(align(64))]
struct Lines<T>(T);

/// Map of one image, channels-last.
#[derive(Clone, Copy)]
pub(super) struct ImageMap {
    pub(super) x: *const f32,
    pub(super) h: usize,
    pub(super) w: usize,
    /// A multiple of the lanes of a register.
    pub(super) channels: usize,
}

/// Prologue that clamps: `min(max(x * scale + shift, low), high)`, by channel.
#[derive(Clone, Copy)]
pub(super) struct ClampPrologue {
    pub(super) scale: *const f32,
    pub(super) shift: *const f32,
    pub(super) bounds: [f32; 2],
}

/// Argument of kernels without a prologue.
const NO_PROLOGUE: ClampPrologue =
    ClampPrologue { scale: std::ptr::null(), shift: std::ptr::null(), bounds: [0.0, 0.0] };

/// First output row and column of a run of tiles, and their number.
#[derive(Clone, Copy)]
pub(super) struct RunPosition {
    pub(super) y: usize,
    pub(super) x: usize,
    pub(super) count: usize,
}

/// Planes of transformed tiles, one per point: first element of the run's first tile, and the strides of planes and tiles.
#[derive(Clone, Copy)]
pub(super) struct TilePlanes {
    pub(super) ptr: *mut f32,
    pub(super) plane: usize,
    pub(super) tile: usize,
}

simd_kernel! {
    /// Transforms the inputs of a run of tiles of `RY` by `RX` outputs. A pixel column is transformed vertically once, for both tiles
    /// that overlap there.
    ///
    /// # Safety
    /// The map must be readable, the planes writable, and the run has at most [`MAX_RUN`] tiles.
    fn input_run<S at level, const RY: usize, const RX: usize, const PROLOGUE: bool>(
        map: ImageMap,
        prologue: ClampPrologue,
        run: RunPosition,
        to: TilePlanes,
    ) {
        unsafe {
            let mut row = [std::ptr::null::<f32>(); POINTS];
            for r in 0..RY + 2 {
                // Row and column -1 are padding.
                if (1..=map.h).contains(&(run.y + r)) {
                    let first = (run.y + r - 1) * map.w + run.x;
                    row[r] = map.x.wrapping_add(first * map.channels).wrapping_sub(map.channels);
                }
            }
            let columns = TILE * (run.count - 1) + RX + 2;
            let left = if run.x == 0 { 1 } else { 0 };
            let inside = if columns < map.w + 1 - run.x { columns } else { map.w + 1 - run.x };
            let mut strip = MaybeUninit::<Lines<[f32; STRIP_COLUMNS * POINTS * MAX_LANES]>>::uninit();
            let strip: *mut f32 = strip.as_mut_ptr().cast();
            let zero = S::splat(0.0);
            for q in 0..columns {
                if q < left || q >= inside {
                    for r in 0..POINTS {
                        S::store(strip.add((q * POINTS + r) * S::LANES), zero);
                    }
                }
            }
            let (low, high) = (S::splat(prologue.bounds[0]), S::splat(prologue.bounds[1]));
            let mut c = 0;
            while c < map.channels {
                let (mut scale, mut shift) = (zero, zero);
                if PROLOGUE {
                    scale = S::load(prologue.scale.add(c));
                    shift = S::load(prologue.shift.add(c));
                }
                for q in left..inside {
                    let mut d = [zero; POINTS];
                    // The pixels that the next row of tiles adds.
                    for r in 2..RY + 2 {
                        prefetch(row[r].wrapping_add((q + TILE * map.w) * map.channels + c));
                    }
                    for r in 0..RY + 2 {
                        if !row[r].is_null() {
                            d[r] = S::load(row[r].wrapping_add(q * map.channels + c));
                            if PROLOGUE {
                                // As batch norm computes it: without FMA, and NaN stays NaN.
                                let y = S::add(S::mul(d[r], scale), shift);
                                d[r] = S::min(high, S::max(low, y));
                            }
                        }
                    }
                    let v = transform::input::<S, RY>(d);
                    for r in 0..POINTS {
                        if uses(RY, r) {
                            S::store(strip.add((q * POINTS + r) * S::LANES), v[r]);
                        }
                    }
                }
                for j in 0..run.count {
                    for r in 0..POINTS {
                        if uses(RY, r) {
                            let mut d = [zero; POINTS];
                            for q in 0..RX + 2 {
                                d[q] = S::load(strip.add(((j * TILE + q) * POINTS + r) * S::LANES));
                            }
                            let v = transform::input::<S, RX>(d);
                            let out = to.ptr.add(r * POINTS * to.plane + j * to.tile + c);
                            for q in 0..POINTS {
                                if uses(RX, q) {
                                    S::store(out.add(q * to.plane), v[q]);
                                }
                            }
                        }
                    }
                }
                c += S::LANES;
            }
        }
    }
}

/// Outputs of one tile: first element, strides of rows and columns, and how many rows and columns are inside the map.
#[derive(Clone, Copy)]
pub(super) struct TileOutputs {
    pub(super) y: *mut f32,
    pub(super) row: usize,
    pub(super) pixel: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

simd_kernel! {
    /// Transforms `channels` channels of a tile at `m`, in planes `plane` apart, to its outputs, and adds the bias unless it is null.
    ///
    /// # Safety
    /// The planes and the bias must be readable, the outputs writable. `channels` is a multiple of the lanes of a register.
    fn output_tile<S at level, const RY: usize, const RX: usize>(
        m: *const f32,
        plane: usize,
        channels: usize,
        bias: *const f32,
        to: TileOutputs,
    ) {
        unsafe {
            let zero = S::splat(0.0);
            let mut k = 0;
            while k < channels {
                let mut half = [[zero; TILE]; POINTS];
                for q in 0..POINTS {
                    if uses(RX, q) {
                        let mut column = [zero; POINTS];
                        for r in 0..POINTS {
                            if uses(RY, r) {
                                column[r] = S::load(m.add((r * POINTS + q) * plane + k));
                            }
                        }
                        half[q] = transform::output::<S, RY>(column);
                    }
                }
                let b = if bias.is_null() { zero } else { S::load(bias.add(k)) };
                for r in 0..RY {
                    if r < to.rows {
                        let mut row = [zero; POINTS];
                        for q in 0..POINTS {
                            row[q] = half[q][r];
                        }
                        let y = transform::output::<S, RX>(row);
                        for q in 0..RX {
                            if q < to.columns {
                                S::store(to.y.add(r * to.row + q * to.pixel + k), S::add(y[q], b));
                            }
                        }
                    }
                }
                k += S::LANES;
            }
        }
    }
}

/// Gradients of one tile's outputs: first element, strides of rows and columns, and how many rows and columns are inside the map.
#[derive(Clone, Copy)]
pub(super) struct TileGradients {
    pub(super) dy: *const f32,
    pub(super) row: usize,
    pub(super) pixel: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

simd_kernel! {
    /// Transforms `channels` channels of the gradients of a tile's outputs to planes at `to`, `plane` apart.
    ///
    /// # Safety
    /// The gradients must be readable, the planes writable. `channels` is a multiple of the lanes of a register.
    fn output_gradient_tile<S at level, const RY: usize, const RX: usize>(
        from: TileGradients,
        channels: usize,
        to: *mut f32,
        plane: usize,
    ) {
        unsafe {
            let zero = S::splat(0.0);
            let mut k = 0;
            while k < channels {
                let mut half = [[zero; POINTS]; TILE];
                for q in 0..RX {
                    if q < from.columns {
                        let mut column = [zero; TILE];
                        for r in 0..RY {
                            if r < from.rows {
                                column[r] = S::load(from.dy.add(r * from.row + q * from.pixel + k));
                            }
                        }
                        half[q] = transform::output_gradient::<S, RY>(column);
                    }
                }
                for r in 0..POINTS {
                    if uses(RY, r) {
                        let mut row = [zero; TILE];
                        for q in 0..RX {
                            row[q] = half[q][r];
                        }
                        let d = transform::output_gradient::<S, RX>(row);
                        for q in 0..POINTS {
                            if uses(RX, q) {
                                S::store(to.add((r * POINTS + q) * plane + k), d[q]);
                            }
                        }
                    }
                }
                k += S::LANES;
            }
        }
    }
}

/// Transform of 3x3 taps, `taps(i)` in order of rows.
///
/// # Safety
/// The conditions of [`Simd`]; `to` must be writable at all planes.
#[inline(always)]
unsafe fn transform_taps<S: Simd>(taps: [S::V; 9], to: *mut f32, plane: usize) {
    let mut half = [[taps[0]; POINTS]; 3];
    for x in 0..3 {
        half[x] = transform::weight::<S>([taps[x], taps[3 + x], taps[6 + x]]);
    }
    for r in 0..POINTS {
        let u = transform::weight::<S>([half[0][r], half[1][r], half[2][r]]);
        for q in 0..POINTS {
            S::store(to.add((r * POINTS + q) * plane), u[q]);
        }
    }
}

/// Panel of transformed weights: first element, number of rows (channels that are summed over), stride of planes, and number of columns, at
/// most three registers.
#[derive(Clone, Copy)]
pub(super) struct WeightPanel {
    pub(super) u: *mut f32,
    pub(super) rows: usize,
    pub(super) plane: usize,
    pub(super) width: usize,
}

simd_kernel! {
    /// Transforms `rows` input channels of the weights `[width, 3, 3, channels]` from `w` on to a panel `[36][rows][width]`.
    ///
    /// # Safety
    /// The weights must be readable, the panel writable; `width` is a multiple of the lanes of a register, `rows` of 8.
    pub(super) fn forward_weight<S at level>(w: *const f32, channels: usize, panel: WeightPanel) {
        unsafe {
            let mut taps = MaybeUninit::<Lines<[f32; 9 * WEIGHT_CHANNELS * MAX_PANEL]>>::uninit();
            let taps: *mut f32 = taps.as_mut_ptr().cast();
            let block = WEIGHT_CHANNELS * panel.width;
            let mut c = 0;
            while c < panel.rows {
                if c % LINE == 0 {
                    for row in 0..9 * panel.width {
                        prefetch(w.wrapping_add(row * channels + c + LINE));
                    }
                }
                for tap in 0..9 {
                    let mut k = 0;
                    while k < panel.width {
                        let from = w.add((k * 9 + tap) * channels + c);
                        S::transpose8(from, 9 * channels, taps.add(tap * block + k), panel.width);
                        k += WEIGHT_CHANNELS;
                    }
                }
                let mut i = 0;
                while i < block {
                    let mut g = [S::splat(0.0); 9];
                    for tap in 0..9 {
                        g[tap] = S::load(taps.add(tap * block + i));
                    }
                    transform_taps::<S>(g, panel.u.add(c * panel.width + i), panel.plane);
                    i += S::LANES;
                }
                c += WEIGHT_CHANNELS;
            }
        }
    }
}

simd_kernel! {
    /// Transforms `width` input channels of the weights `[rows, 3, 3, inputs]` from `w` on, turned by 180 degrees, to a panel
    /// `[36][rows][width]`.
    ///
    /// # Safety
    /// The weights must be readable, the panel writable; `width` is a multiple of the lanes of a register.
    pub(super) fn data_gradient_weight<S at level>(w: *const f32, inputs: usize, panel: WeightPanel) {
        unsafe {
            for o in 0..panel.rows {
                for tap in 0..9 {
                    let next = w.wrapping_add(((o + ROWS_AHEAD) * 9 + tap) * inputs);
                    let mut k = 0;
                    while k < panel.width {
                        prefetch(next.wrapping_add(k));
                        k += LINE;
                    }
                }
                let mut k = 0;
                while k < panel.width {
                    let mut g = [S::splat(0.0); 9];
                    for tap in 0..9 {
                        g[tap] = S::load(w.add((o * 9 + 8 - tap) * inputs + k));
                    }
                    transform_taps::<S>(g, panel.u.add(o * panel.width + k), panel.plane);
                    k += S::LANES;
                }
            }
        }
    }
}

simd_kernel! {
    /// Transforms the gradient `du` of transformed weights, `channels` input channels of one output channel in planes `plane` apart, to
    /// the gradient of the weights `[3, 3, inputs]` at `dw`.
    ///
    /// # Safety
    /// The planes must be readable, the weights writable. `channels` is a multiple of the lanes of a register.
    pub(super) fn weight_gradient_row<S at level>(
        du: *const f32,
        plane: usize,
        channels: usize,
        dw: *mut f32,
        inputs: usize,
    ) {
        unsafe {
            let mut c = 0;
            while c < channels {
                let mut half = [[S::splat(0.0); 3]; POINTS];
                for q in 0..POINTS {
                    let mut column = [S::splat(0.0); POINTS];
                    for r in 0..POINTS {
                        column[r] = S::load(du.add((r * POINTS + q) * plane + c));
                    }
                    half[q] = transform::weight_gradient::<S>(column);
                }
                for r in 0..3 {
                    let mut row = [S::splat(0.0); POINTS];
                    for q in 0..POINTS {
                        row[q] = half[q][r];
                    }
                    let taps = transform::weight_gradient::<S>(row);
                    for q in 0..3 {
                        S::store(dw.add((r * 3 + q) * inputs + c), taps[q]);
                    }
                }
                c += S::LANES;
            }
        }
    }
}

/// Calls a kernel generic over the size of a tile, and over a flag if there is one.
macro_rules! by_tile_size {
    ($kernel:ident $(($flag:literal))?, $size:expr, $($arg:expr),*) => {
        by_tile_size!(@ $kernel, ($($flag)?), $size, ($($arg),*), [4 4] [4 3] [4 2] [3 4] [3 3] [3 2] [2 4] [2 3] [2 2])
    };
    (@ $kernel:ident, $flag:tt, $size:expr, $args:tt, $([$ry:literal $rx:literal])*) => {
        match $size {
            $([$ry, $rx] => by_tile_size!(@call $kernel, $flag, $ry, $rx, $args),)*
            size => unreachable!("no tile of {size:?}"),
        }
    };
    (@call $kernel:ident, (), $ry:literal, $rx:literal, ($($arg:expr),*)) => { $kernel::<$ry, $rx>($($arg),*) };
    (@call $kernel:ident, ($flag:literal), $ry:literal, $rx:literal, ($($arg:expr),*)) => {
        $kernel::<$ry, $rx, $flag>($($arg),*)
    };
}

/// Transforms the inputs of a run of tiles of `size` outputs, of any length.
///
/// # Safety
/// The map and the vectors of the prologue must be readable, the planes writable.
pub(super) unsafe fn input(
    level: Level,
    size: [usize; 2],
    map: ImageMap,
    prologue: Option<ClampPrologue>,
    run: RunPosition,
    to: TilePlanes,
) {
    for first in (0..run.count).step_by(MAX_RUN) {
        let x = run.x + first * TILE;
        let part = RunPosition { x, count: MAX_RUN.min(run.count - first), ..run };
        let to = TilePlanes { ptr: to.ptr.wrapping_add(first * to.tile), ..to };
        match prologue {
            Some(prologue) => by_tile_size!(input_run(true), size, level, map, prologue, part, to),
            None => by_tile_size!(input_run(false), size, level, map, NO_PROLOGUE, part, to),
        }
    }
}

/// Transforms `channels` channels of a tile of `size` outputs at `m` to its outputs, and adds the bias unless it is null.
///
/// # Safety
/// The planes and the bias must be readable, the outputs writable. `channels` is a multiple of the lanes of a register.
pub(super) unsafe fn output(
    level: Level,
    size: [usize; 2],
    m: *const f32,
    plane: usize,
    channels: usize,
    bias: *const f32,
    to: TileOutputs,
) {
    by_tile_size!(output_tile, size, level, m, plane, channels, bias, to);
}

/// Transforms `channels` channels of the gradients of a tile of `size` outputs to planes at `to`.
///
/// # Safety
/// The gradients must be readable, the planes writable. `channels` is a multiple of the lanes of a register.
pub(super) unsafe fn output_gradient(
    level: Level,
    size: [usize; 2],
    from: TileGradients,
    channels: usize,
    to: *mut f32,
    plane: usize,
) {
    by_tile_size!(output_gradient_tile, size, level, from, channels, to, plane);
}
