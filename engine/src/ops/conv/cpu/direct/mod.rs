//! Direct convolution over register tiles: forward passes and data gradients.
mod band;
pub(in crate::ops::conv::cpu) mod batch_tile;
pub(in crate::ops::conv::cpu) mod dense;
pub(in crate::ops::conv::cpu) mod panel;
pub(in crate::ops::conv::cpu) mod plan;
pub(in crate::ops::conv::cpu) mod tile;

pub(in crate::ops::conv::cpu) use band::pad_rows;
