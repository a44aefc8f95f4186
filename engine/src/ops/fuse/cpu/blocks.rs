//! Interpreter of programs, block by block: each instruction is a vectorised loop, and its result stays in a block-sized register in the L1
//! cache.
use super::functions;
use crate::cpu::parallel::DisjointSlice;
use crate::fuse::graph::{Node, Program};
use crate::scalar::Elementary;
use std::collections::BTreeSet;
use std::ops::Range;

/// Elements per block.
pub(crate) const BLOCK: usize = 1024;

/// Inputs and outputs of a program. A range is a block of elements.
pub(crate) trait BlockOperands<T> {
    /// Elements of an input that is read in place.
    fn read(&self, input: usize, at: Range<usize>) -> &[T];
    /// Elements of an output that is written in place.
    #[allow(clippy::mut_from_ref, reason = "disjoint parts, as in DisjointSlice")]
    fn write(&self, output: usize, at: Range<usize>) -> &mut [T];
    /// Copies elements of an input to a register.
    fn load(&self, input: usize, at: Range<usize>, register: &mut [T]);
}

/// Location of a node's value while a block is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// Elements of an input.
    Input(usize),
    /// Elements of an output.
    Output(usize),
    Register(usize),
}

/// Register allocation and schedule of a program.
pub(crate) struct BlockPlan<'a> {
    pub(crate) program: &'a Program,
    pub(crate) locations: Vec<Location>,
    /// Nodes with the same value in all blocks, which keep their registers, and nodes computed for each block.
    pub(crate) once: Vec<usize>,
    pub(crate) each: Vec<usize>,
    pub(crate) registers: usize,
}

impl<'a> BlockPlan<'a> {
    /// `in_place` returns the location of a node that needs no register.
    pub(crate) fn new(
        program: &'a Program,
        once: Vec<usize>,
        each: Vec<usize>,
        in_place: impl Fn(usize) -> Option<Location>,
    ) -> BlockPlan<'a> {
        let nodes = &program.nodes;
        // Last use of each node. Outputs, and nodes computed once, are never freed.
        let mut last = vec![0; nodes.len()];
        for i in &each {
            nodes[*i].operands().for_each(|a| last[a] = last[a].max(*i));
        }
        once.iter().chain(&program.outputs).for_each(|i| last[*i] = usize::MAX);
        let (mut locations, mut free, mut registers) = (vec![Location::Register(0); nodes.len()], vec![], 0);
        for i in once.iter().chain(&each).copied() {
            locations[i] = in_place(i).unwrap_or_else(|| {
                Location::Register(free.pop().unwrap_or_else(|| {
                    registers += 1;
                    registers - 1
                }))
            });
            // Free operands after the node has its location, so that a loop never writes what it reads.
            for a in nodes[i].operands().collect::<BTreeSet<_>>() {
                if let (Location::Register(r), true) = (locations[a], last[a] == i) {
                    free.push(r);
                }
            }
        }
        BlockPlan { program, locations, once, each, registers }
    }
}

/// Registers and operands of one task.
pub(crate) struct BlockTask<'a, T, O> {
    pub(crate) plan: &'a BlockPlan<'a>,
    pub(crate) registers: DisjointSlice<T>,
    pub(crate) operands: &'a O,
}

impl<T: Elementary, O: BlockOperands<T>> BlockTask<'_, T, O> {
    /// Computes a node for a block.
    pub(crate) fn compute(&self, i: usize, at: Range<usize>) {
        let location = self.plan.locations[i];
        if matches!(location, Location::Input(_)) {
            return;
        }
        let y = self.target(location, at.clone());
        let value = |node: usize| self.value(node, at.clone());
        match self.plan.program.nodes[i] {
            Node::Input(k) => self.operands.load(k, at, y),
            Node::Constant(bits) => y.fill(T::from_f64(f64::from_bits(bits))),
            Node::Unary(f, a) => functions::unary(f, value(a), y),
            Node::Binary(f, a, b) => functions::binary(f, (value(a), value(b)), y),
            Node::Select(c, a, b) => functions::select(value(c), value(a), value(b), y),
        }
    }

    /// Value of a node in a block.
    pub(crate) fn value(&self, node: usize, at: Range<usize>) -> &[T] {
        match self.plan.locations[node] {
            Location::Input(k) => self.operands.read(k, at),
            location => self.target(location, at),
        }
    }

    /// Sets a node that is computed once to a value.
    pub(crate) fn fill(&self, node: usize, value: T) {
        self.target(self.plan.locations[node], 0..BLOCK).fill(value);
    }

    #[allow(clippy::mut_from_ref, reason = "disjoint parts, as in DisjointSlice")]
    fn target(&self, location: Location, at: Range<usize>) -> &mut [T] {
        match location {
            // SAFETY: registers belong to this task, and no loop of the plan writes a register that it reads.
            Location::Register(r) => unsafe { self.registers.slice(r * BLOCK, at.len()) },
            Location::Output(o) => self.operands.write(o, at),
            Location::Input(_) => unreachable!("inputs are not written"),
        }
    }
}
