//! Channel groups of the dense kernels: groups narrower than a register are merged.
use crate::conv_shape::ConvShape;

/// `count` blocks of channels, convolved independently. A block is `merged` neighbouring groups, whose weights form a
/// block-diagonal matrix: a few multiplications by zero cost less than a mostly empty register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Groups {
    pub(super) count: usize,
    pub(super) merged: usize,
    /// Input channels of a block.
    pub(super) inputs: usize,
    /// Output channels of a block.
    pub(super) outputs: usize,
}

impl Groups {
    /// Merges groups until their `columns` (the channels of one group that are vectorised) fill three quarters of a register of `lanes`
    /// lanes.
    pub(super) fn of(s: &ConvShape, columns: usize, lanes: usize) -> Groups {
        let merged = (1..=s.groups)
            .filter(|m| s.groups.is_multiple_of(*m))
            .find(|m| m * columns * 4 >= lanes * 3)
            .unwrap_or(s.groups);
        Groups {
            count: s.groups / merged,
            merged,
            inputs: merged * s.group_in(),
            outputs: merged * s.group_out(),
        }
    }
}
