//! Execution of one stage of an update rule on one chunk of a parameter.
use super::{LowPrecisionCopy, OptimizerParameter, average, factors, finish_weights, loops};
use crate::cpu::fuse::functions;
use crate::cpu::parallel::DisjointSlice;
use crate::dtype::{DType, bf16, f16};
use crate::fuse::CpuLoop;
use crate::fuse::graph::Node;
use crate::fuse::update::{Scope, Stage, Symbol, Target};
use crate::ops::ChunkLayout;
use std::ops::Range;

/// Elements per block.
pub(super) const BLOCK: usize = 1024;

/// Arrays of a parameter. Each task accesses its own part.
pub(super) struct ParameterArrays<'a> {
    weights: DisjointSlice<f32>,
    gradient: &'a [f32],
    moments: Vec<DisjointSlice<f32>>,
    ema: Option<DisjointSlice<f32>>,
    f16: Option<DisjointSlice<f16>>,
    bf16: Option<DisjointSlice<bf16>>,
    round: Option<DType>,
    layout: ChunkLayout,
    factors: Option<[&'a [f32]; 2]>,
}

impl<'a> ParameterArrays<'a> {
    pub(super) fn new(parameter: &'a mut OptimizerParameter) -> ParameterArrays<'a> {
        let (mut half, mut brain) = (None, None);
        match &mut parameter.low_precision {
            Some(LowPrecisionCopy::F16(copy)) => half = Some(DisjointSlice::new(copy)),
            Some(LowPrecisionCopy::BF16(copy)) => brain = Some(DisjointSlice::new(copy)),
            None => {}
        }
        ParameterArrays {
            weights: DisjointSlice::new(parameter.weights),
            gradient: parameter.gradient,
            moments: parameter.moments.iter_mut().map(|m| DisjointSlice::new(m)).collect(),
            ema: parameter.ema.as_mut().map(|ema| DisjointSlice::new(ema)),
            f16: half,
            bf16: brain,
            round: parameter.round_to,
            layout: parameter.layout,
            factors: parameter.factors.as_ref().map(|[rows, columns]| [&**rows, &**columns]),
        }
    }

    /// Updates a chunk with a dedicated loop.
    pub(super) fn run_loop(
        &self,
        which: CpuLoop,
        scalars: loops::LoopScalars,
        chunk: usize,
        ema_complement: f32,
    ) {
        let at = self.range(chunk);
        // SAFETY: chunks do not overlap.
        unsafe {
            let mut moments: Vec<&mut [f32]> =
                self.moments.iter().map(|moment| moment.slice(at.start, at.len())).collect();
            let weights = self.weights.slice(at.start, at.len());
            loops::run(which, scalars, weights, &self.gradient[at.clone()], &mut moments);
        }
        self.finish_weights(at, ema_complement);
    }

    /// Updates the EMA of a chunk.
    pub(super) fn average(&self, chunk: usize, complement: f32) {
        let (at, Some(ema)) = (self.range(chunk), &self.ema) else { return };
        // SAFETY: chunks do not overlap.
        average(unsafe { ema.slice(at.start, at.len()) }, read(&self.weights, at), complement);
    }

    /// Rounding, low-precision copy and EMA of new weights.
    fn finish_weights(&self, at: Range<usize>, ema_complement: f32) {
        // SAFETY: chunks do not overlap, and no other reference to these parts exists.
        unsafe {
            let copy = match (&self.f16, &self.bf16) {
                (Some(copy), _) => Some(LowPrecisionCopy::F16(copy.slice(at.start, at.len()))),
                (_, Some(copy)) => Some(LowPrecisionCopy::BF16(copy.slice(at.start, at.len()))),
                _ => None,
            };
            let ema = self.ema.as_ref().map(|ema| (ema.slice(at.start, at.len()), ema_complement));
            finish_weights(self.weights.slice(at.start, at.len()), self.round, copy, ema);
        }
    }

    /// Element range of a chunk.
    pub(super) fn range(&self, chunk: usize) -> Range<usize> {
        let start = chunk * self.layout.chunk_length;
        start..(start + self.layout.chunk_length).min(self.gradient.len())
    }
}

/// Location of a node's value while a block is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueLocation {
    Weight,
    Gradient,
    Moment(usize),
    Register(usize),
}

/// Register allocation and schedule of a stage.
pub(super) struct StagePlan<'a> {
    stage: &'a Stage,
    locations: Vec<ValueLocation>,
    /// Nodes with the same value in the whole chunk, held in registers, and nodes computed for each block.
    once: Vec<usize>,
    each: Vec<usize>,
    pub(super) registers: usize,
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
        // Parameter scalars read by loops. The others are computed separately.
        let mut read = vec![false; nodes.len()];
        each.iter().for_each(|i| nodes[*i].operands().for_each(|a| read[a] = true));
        let writes = |target: &Target| !matches!(target, Target::SharedScalar(_) | Target::ParamScalar);
        let mut last = vec![0; nodes.len()];
        for (target, node) in stage.targets.iter().zip(&program.outputs) {
            if writes(target) {
                (read[*node], last[*node]) = (true, usize::MAX);
            }
        }
        let once: Vec<usize> = (0..nodes.len()).filter(|i| !is_element(i) && read[*i]).collect();
        once.iter().for_each(|i| last[*i] = usize::MAX);
        each.iter().for_each(|i| nodes[*i].operands().for_each(|a| last[a] = last[a].max(*i)));
        let (mut locations, mut free, mut registers) =
            (vec![ValueLocation::Register(0); nodes.len()], vec![], 0);
        for i in once.iter().chain(&each).copied() {
            let symbol = if let Node::Input(k) = nodes[i] { Some(stage.symbols[k]) } else { None };
            // In rules with a factored second moment, factored parameters lack the first moment.
            let may_lack = stage.symbols.contains(&Symbol::Factored) && symbol == Some(Symbol::Moment(0));
            // A value moved between arrays gets its own register, because arrays are written one after the other.
            let moves = stage.targets.iter().zip(&program.outputs).any(|(target, node)| {
                *node == i
                    && !matches!((target, symbol), (Target::Moment(a), Some(Symbol::Moment(b))) if *a == b)
            });
            locations[i] = match symbol {
                Some(Symbol::Weight) if !moves => ValueLocation::Weight,
                Some(Symbol::Moment(k)) if !moves && !may_lack => ValueLocation::Moment(k),
                Some(Symbol::Gradient) if gradient_in_place => ValueLocation::Gradient,
                _ => ValueLocation::Register(free.pop().unwrap_or_else(|| {
                    registers += 1;
                    registers - 1
                })),
            };
            // Free operands after the node has its location, so that a loop never writes what it reads.
            for a in nodes[i].operands().collect::<std::collections::BTreeSet<_>>() {
                if let (ValueLocation::Register(r), true) = (locations[a], last[a] == i) {
                    free.push(r);
                }
            }
        }
        let (mut sums, mut row_sums) = (vec![], vec![]);
        for (target, node) in stage.targets.iter().zip(&program.outputs) {
            match target {
                Target::Sum(k) => sums.push((*k, *node)),
                Target::RowSum(k) => row_sums.push((*k, *node)),
                _ => {}
            }
        }
        let row_end_scope = stage.scopes(&stage.row_end);
        StagePlan { stage, locations, once, each, registers, sums, row_sums, row_end_scope }
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
    pub(super) registers: DisjointSlice<f32>,
}

impl ChunkTask<'_> {
    /// Runs a chunk, and adds to its sums, which are zero on entry: first the sums over elements, then the sums over rows.
    pub(super) fn run(&self, chunk: Range<usize>, sums: &mut [f64]) {
        let plan = self.plan;
        for i in &plan.once {
            self.target(*i, BLOCK).fill(self.values[*i] as f32);
        }
        let mut by_row = vec![0.0f64; plan.row_sums.len()];
        for start in chunk.clone().step_by(BLOCK) {
            let at = start..(start + BLOCK).min(chunk.end);
            for i in &plan.each {
                self.compute(*i, at.clone());
            }
            for ((_, node), sum) in plan.sums.iter().zip(&mut *sums) {
                *sum += total(self.value(*node, at.clone()));
            }
            if !by_row.is_empty() {
                self.add_rows(at.clone(), &mut by_row, &mut sums[plan.sums.len()..]);
            }
            if plan.stage.is_last() {
                self.store_outputs(at);
            }
        }
    }

    /// Computes a node for a block.
    fn compute(&self, i: usize, at: Range<usize>) {
        let plan = self.plan;
        let ValueLocation::Register(_) = plan.locations[i] else { return };
        let y = self.target(i, at.len());
        let value = |node: usize| self.value(node, at.clone());
        match plan.stage.program.nodes[i] {
            Node::Unary(f, a) => functions::unary(f, value(a), y),
            Node::Binary(f, a, b) => functions::binary(f, (value(a), value(b)), y),
            Node::Select(c, a, b) => functions::select(value(c), value(a), value(b), y),
            Node::Input(k) => match plan.stage.symbols[k] {
                Symbol::Gradient => self.gradient(at, y),
                Symbol::Weight => y.copy_from_slice(read(&self.arrays.weights, at)),
                Symbol::Moment(k) => self.moment(k, at, y),
                Symbol::Factored => match self.arrays.factors {
                    Some(factors) => factors::reconstruct(factors, self.means, &self.arrays.layout, at, y),
                    None => y.fill(0.0),
                },
                Symbol::RowSum(k) => self.for_each_row(at, |row, part| {
                    y[part].fill(self.row(row)[k]);
                }),
                _ => unreachable!("read in place, or a scalar of the parameter"),
            },
            Node::Constant(_) => unreachable!("computed once per chunk"),
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
    fn add_rows(&self, at: Range<usize>, by_row: &mut [f64], ends: &mut [f64]) {
        let (plan, length) = (self.plan, self.arrays.layout.row_length);
        self.for_each_row(at.clone(), |row, part| {
            for ((_, node), sum) in plan.row_sums.iter().zip(&mut *by_row) {
                *sum += total(&self.value(*node, at.clone())[part.clone()]);
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
    fn store_outputs(&self, at: Range<usize>) {
        let (arrays, len) = (self.arrays, at.len());
        let outputs = self.plan.stage.targets.iter().zip(&self.plan.stage.program.outputs);
        for (target, node) in outputs {
            let to = match target {
                Target::Weight => &arrays.weights,
                Target::Moment(0) if arrays.factors.is_some() => continue,
                Target::Moment(k) if self.plan.locations[*node] != ValueLocation::Moment(*k) => {
                    &arrays.moments[*k]
                }
                _ => continue,
            };
            // SAFETY: chunks do not overlap, and the value is in a register or is the gradient.
            unsafe { to.slice(at.start, len) }.copy_from_slice(self.value(*node, at.clone()));
        }
        arrays.finish_weights(at, self.ema_complement);
    }

    fn value(&self, node: usize, at: Range<usize>) -> &[f32] {
        match self.plan.locations[node] {
            ValueLocation::Weight => read(&self.arrays.weights, at),
            ValueLocation::Gradient => &self.arrays.gradient[at],
            ValueLocation::Moment(k) => read(&self.arrays.moments[k], at),
            ValueLocation::Register(_) => self.target(node, at.len()),
        }
    }

    #[allow(clippy::mut_from_ref, reason = "disjoint parts, as in DisjointSlice")]
    fn target(&self, node: usize, len: usize) -> &mut [f32] {
        let ValueLocation::Register(r) = self.plan.locations[node] else {
            unreachable!("arrays are not written")
        };
        // SAFETY: registers belong to this task, and no loop of the plan writes a register that it reads.
        unsafe { self.registers.slice(r * BLOCK, len) }
    }

    /// The sums of a row.
    #[allow(clippy::mut_from_ref, reason = "disjoint parts, as in DisjointSlice")]
    fn row(&self, row: usize) -> &mut [f32] {
        // SAFETY: each row belongs to one chunk, or is only read.
        unsafe { self.rows.slice((self.first_row + row) * self.row_sums, self.row_sums) }
    }
}

/// Reads part of an array.
fn read(array: &DisjointSlice<f32>, at: Range<usize>) -> &[f32] {
    // SAFETY: chunks do not overlap, and a task writes to arrays only after computing a block.
    unsafe { array.slice(at.start, at.len()) }
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
