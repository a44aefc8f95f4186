//! Fused expressions over rows of channels. Work is split into whole rows, by shapes alone; `blocks.rs` runs the program.
pub(crate) mod blocks;
mod functions;

use crate::cpu::parallel::{DisjointSlice, GRAIN, for_each_task};
use crate::cpu::scratch;
use crate::dtype::{as_f32, as_f32_mut, bf16, f16};
use crate::fuse::graph::{Node, Program};
use crate::scalar::Elementary;
use blocks::{BLOCK, BlockOperands, BlockPlan, BlockTask, Location};
use half::slice::HalfFloatSliceExt;
use std::ops::Range;

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
    let arrays = Arrays { sources, outputs: &outputs, c };
    let plan = plan(program, &arrays);
    for_each_task(chunks, |i| {
        // SAFETY: each chunk has its own sums.
        let sums = unsafe { shared.slice(i * sums * c, sums * c) };
        scratch::with(plan.registers * BLOCK, |registers: &mut [T]| {
            let task = BlockTask { plan: &plan, registers: DisjointSlice::new(registers), operands: &arrays };
            run_chunk(&task, i * chunk..len.min((i + 1) * chunk), sums);
        });
    });
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

/// Inputs and outputs of a program over rows of `c` channels.
struct Arrays<'a, T> {
    sources: &'a [ProgramInput<'a, T>],
    outputs: &'a [OutputSlice<T>],
    c: usize,
}

/// Register allocation and schedule of a program, for given kinds of inputs and outputs. Nodes with the same value in all blocks are
/// computed once per chunk.
fn plan<'a, T: Elementary>(program: &'a Program, arrays: &Arrays<T>) -> BlockPlan<'a> {
    let Arrays { sources, outputs, c } = arrays;
    let mut uniform: Vec<bool> = vec![];
    for node in &program.nodes {
        let is = match node {
            Node::Input(i) => match &sources[*i] {
                ProgramInput::Scalar(_) => true,
                ProgramInput::Channels(_) => *c <= BLOCK,
                ProgramInput::Elements(_) | ProgramInput::F16(_) | ProgramInput::BF16(_) => false,
            },
            _ => node.operands().all(|a| uniform[a]),
        };
        uniform.push(is);
    }
    let (once, each) = (0..program.nodes.len()).partition(|i| uniform[*i]);
    BlockPlan::new(program, once, each, |i| {
        let into = program.outputs.iter().position(|o| *o == i);
        match (program.nodes[i], into) {
            (Node::Input(k), _) if matches!(sources[k], ProgramInput::Elements(_)) => {
                Some(Location::Input(k))
            }
            (Node::Input(k), _) if matches!(sources[k], ProgramInput::Channels(_)) && *c > BLOCK => {
                Some(Location::Input(k))
            }
            (_, Some(o)) if !uniform[i] && matches!(outputs[o], OutputSlice::Elements(_)) => {
                Some(Location::Output(o))
            }
            _ => None,
        }
    })
}

/// Runs whole rows, and adds to their sums `[sums, c]`, which are zero on entry.
fn run_chunk<T: Elementary>(task: &BlockTask<T, Arrays<T>>, at: Range<usize>, sums: &mut [T]) {
    let c = task.operands.c;
    // Blocks start at a row, or lie within one.
    let (span, step) = if c <= BLOCK { (at.len(), BLOCK / c * c) } else { (c, BLOCK) };
    for i in &task.plan.once {
        task.compute(*i, 0..step.min(at.len()));
    }
    for row in at.clone().step_by(span) {
        for start in (row..row + span).step_by(step) {
            let block = start..(start + step).min(row + span);
            for i in &task.plan.each {
                task.compute(*i, block.clone());
            }
            store_outputs(task, block, sums);
        }
    }
}

/// Stores the outputs of a block.
fn store_outputs<T: Elementary>(task: &BlockTask<T, Arrays<T>>, at: Range<usize>, sums: &mut [T]) {
    let Arrays { outputs, c, .. } = *task.operands;
    for (o, (node, out)) in task.plan.program.outputs.iter().zip(outputs).enumerate() {
        let value = task.value(*node, at.clone());
        match out {
            OutputSlice::Elements(_) if task.plan.locations[*node] == Location::Output(o) => {}
            OutputSlice::Elements(_) => task.operands.write(o, at.clone()).copy_from_slice(value),
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

impl<T: Elementary> BlockOperands<T> for Arrays<'_, T> {
    fn read(&self, input: usize, at: Range<usize>) -> &[T] {
        match &self.sources[input] {
            ProgramInput::Elements(x) => &x[at],
            ProgramInput::Channels(x) => &x[at.start % self.c..][..at.len()],
            _ => unreachable!("only elements and channels of T are read in place"),
        }
    }

    fn write(&self, output: usize, at: Range<usize>) -> &mut [T] {
        match &self.outputs[output] {
            // SAFETY: blocks do not overlap, and each output is written by one node before others read it.
            OutputSlice::Elements(y) => unsafe { y.slice(at.start, at.len()) },
            _ => unreachable!("only full outputs are written in place"),
        }
    }

    fn load(&self, input: usize, at: Range<usize>, y: &mut [T]) {
        match &self.sources[input] {
            ProgramInput::Elements(_) => unreachable!("read in place"),
            ProgramInput::F16(x) => x[at].convert_to_f32_slice(floats_mut(y)),
            ProgramInput::BF16(x) => x[at].convert_to_f32_slice(floats_mut(y)),
            ProgramInput::Channels(x) => {
                y.chunks_mut(x.len()).for_each(|row| row.copy_from_slice(&x[..row.len()]))
            }
            ProgramInput::Scalar(x) => y.fill(*x),
        }
    }
}

fn floats<T: Elementary>(x: &[T]) -> &[f32] {
    as_f32(x).expect("f16 and bf16 are computed in f32")
}

fn floats_mut<T: Elementary>(x: &mut [T]) -> &mut [f32] {
    as_f32_mut(x).expect("f16 and bf16 are computed in f32")
}
