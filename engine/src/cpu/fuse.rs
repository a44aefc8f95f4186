//! Interpreter of fused expressions. A program runs block by block: each instruction is a vectorised loop, and its result stays in a
//! block-sized register in the L1 cache. Work is split into whole rows of channels, by shapes alone.
pub mod functions;

use super::elementary::Elementary;
use super::parallel::{DisjointSlice, GRAIN, for_each_task};
use super::scratch;
use crate::dtype::{as_f32, as_f32_mut, bf16, f16};
use crate::fuse::graph::{Node, Program};
use half::slice::HalfFloatSliceExt;
use std::ops::Range;

/// Elements per block.
const BLOCK: usize = 1024;

/// Input of a program.
pub enum ProgramInput<'a, T> {
    /// One element per output element.
    Elements(&'a [T]),
    /// One f16 element per output element, computed with in f32.
    F16(&'a [f16]),
    /// One bf16 element per output element, computed with in f32.
    BF16(&'a [bf16]),
    /// One element per channel.
    Channels(Vec<T>),
    /// A scalar.
    Scalar(T),
}

/// Output of a program.
pub enum ProgramOutput<'a, T> {
    /// Every element.
    Elements(&'a mut [T]),
    /// Every element, rounded from f32 to f16.
    F16(&'a mut [f16]),
    /// Every element, rounded from f32 to bf16.
    BF16(&'a mut [bf16]),
    /// Per-channel sums over rows.
    Sums(&'a mut [f64]),
}

/// Runs a program over rows of `c` channels, `len` elements in total.
pub(crate) fn run<T: Elementary>(
    program: &Program,
    sources: &[ProgramInput<T>],
    c: usize,
    len: usize,
    sinks: Vec<ProgramOutput<T>>,
) {
    if len == 0 {
        return;
    }
    let sums = sinks.iter().filter(|sink| matches!(sink, ProgramOutput::Sums(_))).count();
    // Sums over rows use smaller chunks, so that each stays precise.
    let chunk_rows = if sums > 0 { (GRAIN / c).clamp(16, 256) } else { (GRAIN / c).max(1) };
    let chunk = chunk_rows * c;
    let chunks = len.div_ceil(chunk);
    let mut partial = vec![T::zero(); chunks * sums * c];
    let shared = DisjointSlice::new(&mut partial);
    let mut totals = vec![];
    let outputs: Vec<OutputSlice<T>> = sinks
        .into_iter()
        .map(|sink| match sink {
            ProgramOutput::Elements(y) => OutputSlice::Elements(DisjointSlice::new(y)),
            ProgramOutput::F16(y) => OutputSlice::F16(DisjointSlice::new(y)),
            ProgramOutput::BF16(y) => OutputSlice::BF16(DisjointSlice::new(y)),
            ProgramOutput::Sums(total) => {
                totals.push(total);
                OutputSlice::Sums(totals.len() - 1)
            }
        })
        .collect();
    let plan = ProgramPlan::new(program, sources, c, &outputs);
    for_each_task(chunks, |i| {
        // SAFETY: each chunk has its own sums.
        let sums = unsafe { shared.slice(i * sums * c, sums * c) };
        scratch::with(plan.registers * BLOCK, |registers: &mut [T]| {
            let block =
                BlockRunner { plan: &plan, registers: DisjointSlice::new(registers), outputs: &outputs };
            block.run_chunk(i * chunk..len.min((i + 1) * chunk), sums);
        });
    });
    drop(plan);
    for (k, total) in totals.into_iter().enumerate() {
        total.fill(0.0);
        for part in partial.chunks_exact(sums * c) {
            total.iter_mut().zip(&part[k * c..]).for_each(|(total, sum)| *total += sum.to_f64());
        }
    }
}

enum OutputSlice<T> {
    Elements(DisjointSlice<T>),
    F16(DisjointSlice<f16>),
    BF16(DisjointSlice<bf16>),
    /// Index of the sum.
    Sums(usize),
}

/// Location of a node's value while a block is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueLocation {
    /// Elements of an input.
    Input(usize),
    /// Channels of an input, of which the block covers a part.
    Channels(usize),
    /// Elements of an output.
    Output(usize),
    Register(usize),
}

/// Register allocation and schedule of a program, for given kinds of inputs and outputs.
struct ProgramPlan<'a, T> {
    program: &'a Program,
    sources: &'a [ProgramInput<'a, T>],
    c: usize,
    locations: Vec<ValueLocation>,
    /// Nodes with the same value in all blocks, computed once per chunk, and the other nodes.
    once: Vec<usize>,
    each: Vec<usize>,
    registers: usize,
}

impl<'a, T: Elementary> ProgramPlan<'a, T> {
    fn new(
        program: &'a Program,
        sources: &'a [ProgramInput<'a, T>],
        c: usize,
        outputs: &[OutputSlice<T>],
    ) -> ProgramPlan<'a, T> {
        let nodes = &program.nodes;
        let mut uniform: Vec<bool> = vec![];
        for node in nodes {
            let is = match node {
                Node::Input(i) => match &sources[*i] {
                    ProgramInput::Scalar(_) => true,
                    ProgramInput::Channels(_) => c <= BLOCK,
                    ProgramInput::Elements(_) | ProgramInput::F16(_) | ProgramInput::BF16(_) => false,
                },
                _ => node.operands().all(|a| uniform[a]),
            };
            uniform.push(is);
        }
        let (once, each): (Vec<usize>, Vec<usize>) = (0..nodes.len()).partition(|i| uniform[*i]);
        // Last use of each node. Outputs, and nodes computed once per chunk, are never freed.
        let mut last: Vec<usize> = uniform.iter().map(|u| if *u { usize::MAX } else { 0 }).collect();
        for i in &each {
            nodes[*i].operands().for_each(|a| last[a] = last[a].max(*i));
        }
        program.outputs.iter().for_each(|o| last[*o] = usize::MAX);
        let (mut locations, mut free, mut registers) =
            (vec![ValueLocation::Register(0); nodes.len()], vec![], 0);
        let mut register = |free: &mut Vec<usize>| {
            ValueLocation::Register(free.pop().unwrap_or_else(|| {
                registers += 1;
                registers - 1
            }))
        };
        for i in once.iter().chain(&each).copied() {
            let into = program.outputs.iter().position(|o| *o == i);
            locations[i] = match (nodes[i], into) {
                (Node::Input(k), _) if matches!(sources[k], ProgramInput::Elements(_)) => {
                    ValueLocation::Input(k)
                }
                (Node::Input(k), _) if matches!(sources[k], ProgramInput::Channels(_)) && c > BLOCK => {
                    ValueLocation::Channels(k)
                }
                (_, Some(o)) if !uniform[i] && matches!(outputs[o], OutputSlice::Elements(_)) => {
                    ValueLocation::Output(o)
                }
                _ => register(&mut free),
            };
            // Free operands after the node has its location, so that a loop never writes what it reads.
            for a in nodes[i].operands().collect::<std::collections::BTreeSet<_>>() {
                if let ValueLocation::Register(r) = locations[a]
                    && last[a] == i
                {
                    free.push(r);
                }
            }
        }
        ProgramPlan { program, sources, c, locations, once, each, registers }
    }
}

/// State of one task: its registers.
struct BlockRunner<'a, T> {
    plan: &'a ProgramPlan<'a, T>,
    registers: DisjointSlice<T>,
    outputs: &'a [OutputSlice<T>],
}

impl<T: Elementary> BlockRunner<'_, T> {
    /// Runs whole rows, and adds to their sums `[sums, c]`, which are zero on entry.
    fn run_chunk(&self, at: Range<usize>, sums: &mut [T]) {
        let c = self.plan.c;
        // Blocks start at a row, or lie within one.
        let (span, step) = if c <= BLOCK { (at.len(), BLOCK / c * c) } else { (c, BLOCK) };
        for i in &self.plan.once {
            self.compute(*i, 0..step.min(at.len()));
        }
        for row in at.clone().step_by(span) {
            for start in (row..row + span).step_by(step) {
                let block = start..(start + step).min(row + span);
                for i in &self.plan.each {
                    self.compute(*i, block.clone());
                }
                self.store_outputs(block, sums);
            }
        }
    }

    /// Computes a node for a block.
    fn compute(&self, i: usize, at: Range<usize>) {
        let location = self.plan.locations[i];
        if matches!(location, ValueLocation::Input(_) | ValueLocation::Channels(_)) {
            return;
        }
        let y = self.target(location, at.clone());
        let value = |node: usize| self.value(node, at.clone());
        match self.plan.program.nodes[i] {
            Node::Constant(bits) => y.fill(T::from_f64(f64::from_bits(bits))),
            Node::Unary(f, a) => functions::unary(f, value(a), y),
            Node::Binary(f, a, b) => functions::binary(f, (value(a), value(b)), y),
            Node::Select(c, a, b) => functions::select(value(c), value(a), value(b), y),
            Node::Input(k) => match &self.plan.sources[k] {
                ProgramInput::Elements(x) => y.copy_from_slice(&x[at]),
                ProgramInput::F16(x) => x[at].convert_to_f32_slice(floats_mut(y)),
                ProgramInput::BF16(x) => x[at].convert_to_f32_slice(floats_mut(y)),
                ProgramInput::Channels(x) => {
                    y.chunks_mut(x.len()).for_each(|row| row.copy_from_slice(&x[..row.len()]))
                }
                ProgramInput::Scalar(x) => y.fill(*x),
            },
        }
    }

    /// Stores the outputs of a block.
    fn store_outputs(&self, at: Range<usize>, sums: &mut [T]) {
        let c = self.plan.c;
        for (o, (node, out)) in self.plan.program.outputs.iter().zip(self.outputs).enumerate() {
            let value = self.value(*node, at.clone());
            match out {
                OutputSlice::Elements(_) if self.plan.locations[*node] == ValueLocation::Output(o) => {}
                OutputSlice::Elements(_) => {
                    self.target(ValueLocation::Output(o), at.clone()).copy_from_slice(value)
                }
                OutputSlice::F16(y) => {
                    // SAFETY: blocks do not overlap.
                    unsafe { y.slice(at.start, at.len()) }.convert_from_f32_slice(floats(value));
                }
                OutputSlice::BF16(y) => {
                    // SAFETY: blocks do not overlap.
                    unsafe { y.slice(at.start, at.len()) }.convert_from_f32_slice(floats(value));
                }
                OutputSlice::Sums(k) => {
                    let first = if c <= BLOCK { 0 } else { at.start % c };
                    functions::add_rows(value, &mut sums[k * c + first..][..at.len().min(c)]);
                }
            }
        }
    }

    fn value(&self, node: usize, at: Range<usize>) -> &[T] {
        let plan = self.plan;
        match plan.locations[node] {
            ValueLocation::Input(k) => match &plan.sources[k] {
                ProgramInput::Elements(x) => &x[at],
                _ => unreachable!("only full inputs are read in place"),
            },
            ValueLocation::Channels(k) => match &plan.sources[k] {
                ProgramInput::Channels(x) => &x[at.start % plan.c..][..at.len()],
                _ => unreachable!("not a channel input"),
            },
            location => self.target(location, at),
        }
    }

    #[allow(clippy::mut_from_ref, reason = "disjoint parts, as in DisjointSlice")]
    fn target(&self, location: ValueLocation, at: Range<usize>) -> &mut [T] {
        match location {
            // SAFETY: registers belong to this task, and no loop of the plan writes a register that it reads.
            ValueLocation::Register(r) => unsafe { self.registers.slice(r * BLOCK, at.len()) },
            ValueLocation::Output(o) => match &self.outputs[o] {
                // SAFETY: blocks do not overlap, and each output is written by one node before others read it.
                OutputSlice::Elements(y) => unsafe { y.slice(at.start, at.len()) },
                _ => unreachable!("only full outputs are written in place"),
            },
            ValueLocation::Input(_) | ValueLocation::Channels(_) => unreachable!("inputs are not written"),
        }
    }
}

fn floats<T: Elementary>(x: &[T]) -> &[f32] {
    as_f32(x).expect("f16 and bf16 are computed in f32")
}

fn floats_mut<T: Elementary>(x: &mut [T]) -> &mut [f32] {
    as_f32_mut(x).expect("f16 and bf16 are computed in f32")
}
