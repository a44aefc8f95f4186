//! Weights packed in the order in which the tiles read them, `[column block][tap][channel][column]`, zero-padded to whole registers.
//! They are packed at each call: a transpose for the forward pass, row copies for the data gradient.
use crate::conv_shape::ConvShape;
use crate::cpu::simd::Level;
use crate::ops::conv::cpu::SharedPtr;
use crate::ops::conv::cpu::direct::tile;
use crate::ops::conv::cpu::groups::Groups;
use rayon::prelude::*;

/// Fewest weights for packing in parallel.
const MIN_PARALLEL: usize = 1 << 15;

/// Columns covered by one tile.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops::conv::cpu) struct ColumnBlock {
    /// Group of the columns.
    pub(in crate::ops::conv::cpu) group: usize,
    /// First register, counted within the group.
    pub(in crate::ops::conv::cpu) first: usize,
    /// Width in registers.
    pub(in crate::ops::conv::cpu) registers: usize,
}

/// Columns of all groups, split into blocks.
pub(in crate::ops::conv::cpu) struct Panels {
    pub(in crate::ops::conv::cpu) level: Level,
    pub(in crate::ops::conv::cpu) blocks: Vec<ColumnBlock>,
    pub(in crate::ops::conv::cpu) groups: usize,
    /// Columns per group.
    pub(in crate::ops::conv::cpu) columns: usize,
    /// Registers per group; the last may be partly filled.
    pub(in crate::ops::conv::cpu) registers: usize,
    /// Rows of a panel: taps times reduced channels.
    pub(in crate::ops::conv::cpu) rows: usize,
}

impl Panels {
    /// Splits each group into blocks of two registers, with one block of three for an odd count. With `wide`, blocks have four registers
    /// if the count is a multiple of four.
    pub(in crate::ops::conv::cpu) fn new(
        level: Level,
        groups: usize,
        columns: usize,
        rows: usize,
        wide: bool,
    ) -> Panels {
        let registers = columns.div_ceil(level.lanes());
        let mut blocks = Vec::new();
        for group in 0..groups {
            let mut first = 0;
            while first < registers {
                let left = registers - first;
                let width = match left {
                    _ if wide && registers.is_multiple_of(4) => 4,
                    1 | 3 => left,
                    _ => 2,
                };
                blocks.push(ColumnBlock { group, first, registers: width });
                first += width;
            }
        }
        Panels { level, blocks, groups, columns, registers, rows }
    }

    /// Total elements of all panels.
    pub(in crate::ops::conv::cpu) fn len(&self) -> usize {
        self.blocks.iter().map(|b| b.registers).sum::<usize>() * self.level.lanes() * self.rows
    }

    /// First element of a block's panel.
    pub(in crate::ops::conv::cpu) fn start(&self, block: &ColumnBlock) -> usize {
        (block.group * self.registers + block.first) * self.level.lanes() * self.rows
    }

    /// First column of a block within its group, and number of columns.
    pub(in crate::ops::conv::cpu) fn range(&self, block: &ColumnBlock) -> (usize, usize) {
        let first = block.first * self.level.lanes();
        (first, (block.registers * self.level.lanes()).min(self.columns - first))
    }

    /// Pixels of a full tile of this block.
    pub(in crate::ops::conv::cpu) fn tile_rows(&self, block: &ColumnBlock) -> usize {
        tile::rows(self.level, block.registers)
    }

    /// Packs the panels of the forward pass: columns are output channels, rows `[tap][input channel]`.
    pub(in crate::ops::conv::cpu) fn pack_forward(
        &self,
        s: &ConvShape,
        g: &Groups,
        weight: &[f32],
        out: &mut [f32],
    ) {
        let (k, inner) = (self.rows / g.merged, s.group_in());
        self.for_each(out, |block, out| {
            let width = block.registers * self.level.lanes();
            let (first, columns) = self.range(block);
            if g.merged > 1 || columns < width {
                out.fill(0.0);
            }
            for k0 in (0..k).step_by(16) {
                let run = 16.min(k - k0);
                for j in 0..columns {
                    let o = first + j;
                    let part = o / s.group_out();
                    let source = &weight[(block.group * g.outputs + o) * k + k0..][..run];
                    for (i, v) in source.iter().enumerate() {
                        let row = if g.merged == 1 {
                            k0 + i
                        } else {
                            ((k0 + i) / inner * g.merged + part) * inner + (k0 + i) % inner
                        };
                        out[row * width + j] = *v;
                    }
                }
            }
        });
    }

    /// Packs the panels of the data gradient: columns are input channels, rows `[tap][output channel]`.
    pub(in crate::ops::conv::cpu) fn pack_data(
        &self,
        s: &ConvShape,
        g: &Groups,
        weight: &[f32],
        out: &mut [f32],
    ) {
        let (taps, inner) = (s.kernel[0] * s.kernel[1], s.group_in());
        self.for_each(out, |block, out| {
            let width = block.registers * self.level.lanes();
            let (first, columns) = self.range(block);
            for (row, line) in out.chunks_exact_mut(width).enumerate() {
                let (tap, o) = (row / g.outputs, row % g.outputs);
                // The input channels of this output channel's group, as columns of the block.
                let group_start = o / s.group_out() * inner;
                let (a, b) = (group_start.max(first), (group_start + inner).min(first + columns));
                if b - a.min(b) < width {
                    line.fill(0.0);
                }
                if a < b {
                    let source = ((block.group * g.outputs + o) * taps + tap) * inner + a - group_start;
                    line[a - first..b - first].copy_from_slice(&weight[source..][..b - a]);
                }
            }
        });
    }

    fn for_each(&self, out: &mut [f32], fill: impl Fn(&ColumnBlock, &mut [f32]) + Sync) {
        assert!(out.len() >= self.len());
        let shared = SharedPtr(out.as_mut_ptr());
        let one = |block: &ColumnBlock| {
            let len = block.registers * self.level.lanes() * self.rows;
            // SAFETY: panels are consecutive, do not overlap, and end at `len()`.
            fill(block, unsafe { std::slice::from_raw_parts_mut(shared.at(self.start(block)), len) })
        };
        if self.len() < MIN_PARALLEL {
            self.blocks.iter().for_each(one);
        } else {
            self.blocks.par_iter().for_each(one);
        }
    }
}
