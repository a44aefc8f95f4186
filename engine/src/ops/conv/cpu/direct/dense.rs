//! Forward pass and data gradient on 32-bit words: packs the weights and executes the plan over bands or batch tiles.
use super::batch_tile;
use crate::conv_shape::ConvShape;
use crate::cpu::scratch;
use crate::cpu::simd::{self, Level};
use crate::ops::conv::cpu::direct::band::{self, ConvJob};
use crate::ops::conv::cpu::direct::panel::Panels;
use crate::ops::conv::cpu::direct::plan::ConvPlan;
use crate::ops::conv::cpu::direct::tile::TileOutput;
use crate::ops::conv::cpu::groups::Groups;
use crate::ops::conv::cpu::{ConvInput, SharedPtr};

/// Outputs beyond this size use non-temporal stores: they would not stay in the caches until the next operation.
const STREAM_BYTES: usize = 24 << 20;
/// Most panel rows for tiles of four registers. They load least and are 1-10 % faster while the panel stays in the L2 cache. They
/// need the 32 registers of AVX-512.
const MAX_WIDE_ROWS: usize = 1024;

/// Forward pass. The input channels of `s` are counted in words.
pub(in crate::ops::conv::cpu) fn forward<T: TileOutput>(
    s: &ConvShape,
    x: ConvInput,
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [T],
) {
    let level = simd::level();
    let groups = Groups::of(s, s.group_out(), level.lanes());
    let plan = ConvPlan::forward(s, &groups);
    let rows = plan.phases[0].taps.len() * groups.inputs;
    let wide = level == Level::Avx512 && rows <= MAX_WIDE_ROWS;
    let panels = Panels::new(level, groups.count, groups.outputs, rows, wide);
    scratch::with(panels.len(), |packed: &mut [f32]| {
        panels.pack_forward(s, &groups, weight, packed);
        run(&plan, &panels, packed, bias, x, y);
    });
}

/// Data gradient. The output channels of `s` are counted in words.
pub(in crate::ops::conv::cpu) fn data_gradient<T: TileOutput>(
    s: &ConvShape,
    dy: &[f32],
    weight: &[f32],
    dx: &mut [T],
) {
    let level = simd::level();
    let groups = Groups::of(s, s.group_in(), level.lanes());
    let plan = ConvPlan::data_gradient(s, &groups);
    let rows = s.kernel[0] * s.kernel[1] * groups.outputs;
    let wide = level == Level::Avx512 && rows <= MAX_WIDE_ROWS;
    let panels = Panels::new(level, groups.count, groups.inputs, rows, wide);
    scratch::with(panels.len(), |packed: &mut [f32]| {
        panels.pack_data(s, &groups, weight, packed);
        run(&plan, &panels, packed, None, ConvInput::plain(dy), dx);
    });
}

/// True if non-temporal stores to `target`, with `columns` (or a multiple) elements per pixel, are possible and worthwhile.
pub(in crate::ops::conv::cpu) fn use_streaming<T>(level: Level, columns: usize, target: &[T]) -> bool {
    let register = level.lanes() * size_of::<T>();
    size_of_val(target) > STREAM_BYTES
        && (target.as_ptr() as usize).is_multiple_of(register)
        && columns.is_multiple_of(level.lanes())
}

fn run<T: TileOutput>(
    plan: &ConvPlan,
    panels: &Panels,
    packed: &[f32],
    bias: Option<&[f32]>,
    source: ConvInput,
    target: &mut [T],
) {
    if target.is_empty() {
        return;
    }
    let lanes = panels.level.lanes();
    let stream = use_streaming(panels.level, panels.columns, target);
    let padded = panels.registers * lanes;
    scratch::with(bias.map_or(0, |_| panels.groups * padded), |wide: &mut [f32]| {
        if let Some(bias) = bias {
            for (to, from) in wide.chunks_exact_mut(padded).zip(bias.chunks_exact(panels.columns)) {
                to[..panels.columns].copy_from_slice(from);
                to[panels.columns..].fill(0.0);
            }
        }
        let bias = bias.map(|_| &*wide);
        let target = SharedPtr(target.as_mut_ptr());
        let ConvInput { x: source, prologue } = source;
        let job = ConvJob { plan, panels, packed, bias, source, prologue, target, stream };
        if prologue.is_none() && batch_tile::supports(plan) { batch_tile::run(&job) } else { band::run(&job) }
    });
}
