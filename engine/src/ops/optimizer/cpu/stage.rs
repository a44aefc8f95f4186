//! Execution of one stage of an update rule on one chunk of a parameter.
use super::factors;
use super::parameter::{ParameterArrays, read};
use crate::cpu::parallel::DisjointSlice;
use crate::fuse::graph::Node;
use crate::fuse::update::formula::Symbol;
use crate::fuse::update::stage::{Scope, Stage, Target};
use crate::ops::fuse::cpu::blocks::{BLOCK, BlockOperands, BlockPlan, BlockTask, Location};
use std::ops::Range;

/// Register allocation and schedule of a stage.
pub(super) struct StagePlan<'a> {
    stage: &'a Stage,
    pub(super) blocks: BlockPlan<'a>,
    /// Sums over elements, and sums by row: index of the sum, and the node summed.
    pub(super) sums: Vec<(usize, usize)>,
    row_sums: Vec<(usize, usize)>,
    /// Scope of the nodes of the row-end program.
    row_end_scope: Vec<Scope>,
}

impl<'a> StagePlan<'a> {
    /// With `gradient_in_place`, gradients need no scaling or clipping.
    pub(super) fn new(stage: &'a Stage, gradient_in_place: bool) -> StagePlan<'a> {
        let program = &stage.program;
        let (nodes, scopes) = (&program.nodes, stage.scopes(program));
        let is_element = |i: &usize| scopes[*i] > Scope::Parameter;
        let each: Vec<usize> = (0..nodes.len()).filter(is_element).collect();
        // Parameter scalars read by loops, or stored as elements. The others are computed separately.
        let mut read = vec![false; nodes.len()];
        each.iter().for_each(|i| nodes[*i].operands().for_each(|a| read[a] = true));
        for (target, node) in stage.targets.iter().zip(&program.outputs) {
            read[*node] |= !matches!(target, Target::SharedScalar(_) | Target::ParamScalar);
        }
        let once = (0..nodes.len()).filter(|i| !is_element(i) && read[*i]).collect();
        let in_place = |i: usize| {
            let Node::Input(k) = nodes[i] else { return None };
            let symbol = stage.symbols[k];
            // In rules with a factored second moment, factored parameters lack the first moment.
            let may_lack = stage.symbols.contains(&Symbol::Factored) && symbol == Symbol::Moment(0);
            // A value moved between arrays gets its own register, because arrays are written one after the other.
            let moves = stage.targets.iter().zip(&program.outputs).any(|(target, node)| {
                *node == i && !matches!((target, symbol), (Target::Moment(a), Symbol::Moment(b)) if *a == b)
            });
            let is_in_place = match symbol {
                Symbol::Weight => !moves,
                Symbol::Moment(_) => !moves && !may_lack,
                Symbol::Gradient => gradient_in_place,
                _ => false,
            };
            is_in_place.then_some(Location::Input(k))
        };
        let blocks = BlockPlan::new(program, once, each, in_place);
        let (mut sums, mut row_sums) = (vec![], vec![]);
        for (target, node) in stage.targets.iter().zip(&program.outputs) {
            match target {
                Target::Sum(k) => sums.push((*k, *node)),
                Target::RowSum(k) => row_sums.push((*k, *node)),
                _ => {}
            }
        }
        let row_end_scope = stage.scopes(&stage.row_end);
        StagePlan { stage, blocks, sums, row_sums, row_end_scope }
    }

    /// True if the node is a moment that is read in place, and is the new value of this moment.
    fn is_kept(&self, target: Target, node: usize) -> bool {
        let Location::Input(k) = self.blocks.locations[node] else { return false };
        matches!((target, self.stage.symbols[k]), (Target::Moment(a), Symbol::Moment(b)) if a == b)
    }
}

/// Run of a stage on one chunk.
pub(super) struct ChunkTask<'a> {
    pub(super) plan: &'a StagePlan<'a>,
    pub(super) arrays: &'a ParameterArrays<'a>,
    /// Values of the nodes with parameter scope, in the elementwise program and in the row-end program.
    pub(super) values: &'a [f64],
    pub(super) row_end_values: &'a [f64],
    pub(super) factor: f32,
    pub(super) clip: Option<f32>,
    /// AGC factors of the parameter's rows, starting at its first row; empty without AGC.
    pub(super) agc_factors: &'a [f32],
    pub(super) ema_complement: f32,
    pub(super) first_row: usize,
    /// Number of sums by row in all stages of the rule.
    pub(super) row_sums: usize,
    /// Means of the factored second moment over both axes.
    pub(super) means: &'a [f32],
    pub(super) rows: &'a DisjointSlice<f32>,
}

impl ChunkTask<'_> {
    /// Runs a chunk, and adds to its sums, which are zero on entry: first the sums over elements, then the sums over rows.
    pub(super) fn run(&self, registers: DisjointSlice<f32>, chunk: Range<usize>, sums: &mut [f64]) {
        let plan = self.plan;
        let task = BlockTask { plan: &plan.blocks, registers, operands: self };
        for i in &plan.blocks.once {
            task.fill(*i, self.values[*i] as f32);
        }
        let mut by_row = vec![0.0f64; plan.row_sums.len()];
        for start in chunk.clone().step_by(BLOCK) {
            let at = start..(start + BLOCK).min(chunk.end);
            for i in &plan.blocks.each {
                task.compute(*i, at.clone());
            }
            for ((_, node), sum) in plan.sums.iter().zip(&mut *sums) {
                *sum += total(task.value(*node, at.clone()));
            }
            if !by_row.is_empty() {
                self.add_rows(&task, at.clone(), &mut by_row, &mut sums[plan.sums.len()..]);
            }
            if plan.stage.is_last() {
                self.store_outputs(&task, at);
            }
        }
    }

    /// Reads a moment; zeros for the first moment of a factored parameter.
    fn moment(&self, k: usize, at: Range<usize>, y: &mut [f32]) {
        match k == 0 && self.arrays.factors.is_some() {
            true => y.fill(0.0),
            false => y.copy_from_slice(read(&self.arrays.moments[k], at)),
        }
    }

    /// Reads the gradient, unscaled and clipped.
    fn gradient(&self, at: Range<usize>, y: &mut [f32]) {
        let gradient = &self.arrays.gradient[at.clone()];
        match self.factor {
            1.0 => y.copy_from_slice(gradient),
            factor => y.iter_mut().zip(gradient).for_each(|(y, g)| *y = factor * g),
        }
        if let Some(limit) = self.clip {
            y.iter_mut().for_each(|y| *y = y.clamp(-limit, limit));
        }
        if !self.agc_factors.is_empty() {
            self.for_each_row(at, |row, part| y[part].iter_mut().for_each(|y| *y *= self.agc_factors[row]));
        }
    }

    /// Calls `f` with each row that overlaps the block, and its range within the block.
    fn for_each_row(&self, at: Range<usize>, mut f: impl FnMut(usize, Range<usize>)) {
        let length = self.arrays.layout.row_length;
        for row in at.start / length..at.end.div_ceil(length) {
            let part = (row * length).max(at.start)..((row + 1) * length).min(at.end);
            f(row, part.start - at.start..part.end - at.start);
        }
    }

    /// Adds a block to the sums of its rows. Sums of completed rows are stored, and the row-end program runs on them.
    fn add_rows(&self, task: &BlockTask<f32, Self>, at: Range<usize>, by_row: &mut [f64], ends: &mut [f64]) {
        let (plan, length) = (self.plan, self.arrays.layout.row_length);
        self.for_each_row(at.clone(), |row, part| {
            for ((_, node), sum) in plan.row_sums.iter().zip(&mut *by_row) {
                *sum += total(&task.value(*node, at.clone())[part.clone()]);
            }
            if at.start + part.end < (row + 1) * length {
                return;
            }
            let kept = self.row(row);
            for ((k, _), sum) in plan.row_sums.iter().zip(&mut *by_row) {
                kept[*k] = std::mem::take(sum) as f32;
            }
            let row_end = &plan.stage.row_end;
            let mut values: Vec<f64> = vec![];
            for ((node, number), scope) in
                row_end.nodes.iter().zip(self.row_end_values).zip(&plan.row_end_scope)
            {
                let of_row = |k: usize| match plan.stage.symbols[k] {
                    Symbol::RowSum(k) => f64::from(kept[k]),
                    _ => unreachable!("a scalar of the parameter"),
                };
                let of_parameter = *scope == Scope::Parameter;
                values.push(if of_parameter { *number } else { node.value(&values, of_row) });
            }
            row_end.outputs.iter().zip(&mut *ends).for_each(|(o, sum)| *sum += values[*o]);
        });
    }

    /// Stores the results of a block.
    fn store_outputs(&self, task: &BlockTask<f32, Self>, at: Range<usize>) {
        let (arrays, len) = (self.arrays, at.len());
        let outputs = self.plan.stage.targets.iter().zip(&self.plan.stage.program.outputs);
        for (target, node) in outputs {
            let to = match target {
                Target::Weight => &arrays.weights,
                Target::Moment(0) if arrays.factors.is_some() => continue,
                Target::Moment(k) if !self.plan.is_kept(*target, *node) => &arrays.moments[*k],
                _ => continue,
            };
            // SAFETY: chunks do not overlap, and the value is in a register or is the gradient.
            unsafe { to.slice(at.start, len) }.copy_from_slice(task.value(*node, at.clone()));
        }
        arrays.finish_weights(at, self.ema_complement);
    }

    /// The sums of a row.
    #[allow(clippy::mut_from_ref, reason = "disjoint parts, as in DisjointSlice")]
    fn row(&self, row: usize) -> &mut [f32] {
        // SAFETY: each row belongs to one chunk, or is only read.
        unsafe { self.rows.slice((self.first_row + row) * self.row_sums, self.row_sums) }
    }
}

impl BlockOperands<f32> for ChunkTask<'_> {
    fn read(&self, input: usize, at: Range<usize>) -> &[f32] {
        match self.plan.stage.symbols[input] {
            Symbol::Weight => read(&self.arrays.weights, at),
            Symbol::Moment(k) => read(&self.arrays.moments[k], at),
            Symbol::Gradient => &self.arrays.gradient[at],
            _ => unreachable!("only arrays are read in place"),
        }
    }

    fn write(&self, _: usize, _: Range<usize>) -> &mut [f32] {
        unreachable!("arrays are written at the end of a block")
    }

    fn load(&self, input: usize, at: Range<usize>, y: &mut [f32]) {
        match self.plan.stage.symbols[input] {
            Symbol::Gradient => self.gradient(at, y),
            Symbol::Weight => y.copy_from_slice(read(&self.arrays.weights, at)),
            Symbol::Moment(k) => self.moment(k, at, y),
            Symbol::Factored => match self.arrays.factors {
                Some(factors) => factors::reconstruct(factors, self.means, &self.arrays.layout, at, y),
                None => y.fill(0.0),
            },
            Symbol::RowSum(k) => self.for_each_row(at, |row, part| y[part].fill(self.row(row)[k])),
            _ => unreachable!("a scalar of the parameter"),
        }
    }
}

/// Sum of a block.
fn total(x: &[f32]) -> f64 {
    let mut lanes = [0.0f32; 16];
    let (groups, rest) = x.as_chunks::<16>();
    for group in groups.iter().map(|group| &group[..]).chain([rest]) {
        lanes.iter_mut().zip(group).for_each(|(lane, x)| *lane += x);
    }
    lanes.iter().map(|lane| f64::from(*lane)).sum()
}
