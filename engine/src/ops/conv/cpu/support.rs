//! Shapes whose convolutions apply a prologue.
use super::depthwise;
use super::direct::batch_tile;
use super::direct::plan::ConvPlan;
use super::groups::Groups;
use super::prologue::clamp_bounds;
use super::winograd;
use crate::Activation;
use crate::conv_shape::ConvShape;
use crate::cpu::simd;

/// Largest side of a grid whose padding costs bands more than a pass that applies the prologue. Batch tiles skip padding, but read in place.
const MAX_BATCH_TILE_SIDE: usize = 8;

/// True if the forward pass of this shape applies a prologue.
pub fn forward_supports(s: &ConvShape, activation: Activation) -> bool {
    if depthwise::supports(s) {
        return true;
    }
    if winograd::supports(s) {
        return clamp_bounds(activation).is_some();
    }
    let groups = Groups::of(s, s.group_out(), simd::level().lanes());
    let plan = ConvPlan::forward(s, &groups);
    !batch_tile::supports(&plan) || plan.grid.iter().all(|side| *side > MAX_BATCH_TILE_SIDE)
}

/// True if the weight gradient of this shape applies a prologue.
pub fn weight_gradient_supports(s: &ConvShape, activation: Activation) -> bool {
    !winograd::supports(s) || clamp_bounds(activation).is_some()
}
