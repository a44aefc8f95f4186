//! Weights packed as words in the order in which tiles read them: `[block of columns][tap][step][half of the columns][pair][column]`.
use super::gather::Gather;
use super::tiles::{BLOCK, STEP, STEP_WORDS};
use super::words::{self, SQUARE};
use crate::cpu::parallel::{DisjointSlice, for_each_task};
use crate::dtype::bf16;

/// Steps that a task packs.
const TASK_STEPS: usize = 64;

/// Layout of packed weights.
pub(super) struct Panel {
    pub(super) columns: usize,
    /// Blocks of columns.
    pub(super) blocks: usize,
    taps: usize,
    /// Reduced elements of a tap.
    depth: usize,
}

/// Place of a step in the weights.
struct StepWeights {
    /// First column and number of columns.
    column: usize,
    columns: usize,
    tap: usize,
    /// First reduced element and number of elements.
    element: usize,
    elements: usize,
}

impl Panel {
    /// Panel of `columns` columns, each with `reduced` weights.
    pub(super) fn of(gather: &Gather, columns: usize, reduced: usize) -> Panel {
        let depth = gather.plan.depth;
        Panel { columns, blocks: columns.div_ceil(BLOCK), taps: reduced / depth, depth }
    }

    /// Words of all blocks.
    pub(super) fn len(&self) -> usize {
        self.blocks * self.block_steps() * STEP_WORDS
    }

    /// First word of a block.
    pub(super) fn start(&self, block: usize) -> usize {
        block * self.block_steps() * STEP_WORDS
    }

    fn block_steps(&self) -> usize {
        self.taps * self.depth.div_ceil(STEP)
    }

    /// Packs the weights of a forward pass, `[column][tap][element]`.
    pub(super) fn pack_forward(&self, weight: &[bf16], out: &mut [u32]) {
        self.for_each_step(out, |step, out| {
            // Columns of the block, as rows of whole steps.
            let mut rows = [[bf16::ZERO; STEP]; BLOCK];
            for (j, row) in rows[..step.columns].iter_mut().enumerate() {
                let start = ((step.column + j) * self.taps + step.tap) * self.depth + step.element;
                row[..step.elements].copy_from_slice(&weight[start..][..step.elements]);
            }
            for half in 0..2 {
                let from: *const u32 = rows[half * SQUARE..].as_ptr().cast();
                let to = out[half * STEP_WORDS / 2..][..STEP_WORDS / 2].as_mut_ptr();
                // SAFETY: 16 rows of 16 words each; the CPU has AVX-512.
                unsafe { words::transpose(from, STEP / 2, to, SQUARE) };
            }
        });
    }

    /// Packs the weights of a data gradient, `[element][tap][column]`.
    pub(super) fn pack_data_gradient(&self, weight: &[bf16], out: &mut [u32]) {
        self.for_each_step(out, |step, out| {
            for (pair, out) in out[..STEP_WORDS / 2].chunks_exact_mut(SQUARE).enumerate() {
                let [low, high] = [0, 1].map(|k| match 2 * pair + k {
                    element if element < step.elements => {
                        let row = (step.element + element) * self.taps + step.tap;
                        &weight[row * self.columns + step.column..][..step.columns]
                    }
                    _ => &[],
                });
                // SAFETY: the second half of a step follows the first; the CPU has AVX-512.
                unsafe { words::pair(low, high, out.as_mut_ptr(), STEP_WORDS / 2) };
            }
        });
    }

    fn for_each_step(&self, out: &mut [u32], fill: impl Fn(&StepWeights, &mut [u32]) + Sync) {
        let tap_steps = self.depth.div_ceil(STEP);
        let steps = self.blocks * self.block_steps();
        let out = DisjointSlice::new(&mut out[..steps * STEP_WORDS]);
        for_each_task(steps.div_ceil(TASK_STEPS), |task| {
            for i in task * TASK_STEPS..((task + 1) * TASK_STEPS).min(steps) {
                let (block, tap, k) = (i / self.block_steps(), i / tap_steps % self.taps, i % tap_steps);
                let (column, element) = (block * BLOCK, k * STEP);
                let (columns, elements) = (BLOCK.min(self.columns - column), STEP.min(self.depth - element));
                let step = StepWeights { column, columns, tap, element, elements };
                // SAFETY: each step has its own words.
                fill(&step, unsafe { out.slice(i * STEP_WORDS, STEP_WORDS) });
            }
        });
    }
}
