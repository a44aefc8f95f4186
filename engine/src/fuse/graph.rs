//! Expression graph with common subexpression elimination and constant folding.
use crate::scalar::{Binary, Unary};
use std::collections::HashMap;

/// Node of an expression. Operands are indices of other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Node {
    Input(usize),
    /// The bits of an f64.
    Constant(u64),
    Unary(Unary, usize),
    Binary(Binary, usize, usize),
    /// The second operand where the first is non-zero, else the third.
    Select(usize, usize, usize),
}

impl Node {
    pub(crate) fn operands(&self) -> impl Iterator<Item = usize> {
        let all = match *self {
            Node::Input(_) | Node::Constant(_) => [None; 3],
            Node::Unary(_, a) => [Some(a), None, None],
            Node::Binary(_, a, b) => [Some(a), Some(b), None],
            Node::Select(c, a, b) => [Some(c), Some(a), Some(b)],
        };
        all.into_iter().flatten()
    }

    /// Value of the node, given the values of earlier nodes.
    pub(crate) fn value(&self, before: &[f64], input: impl Fn(usize) -> f64) -> f64 {
        match *self {
            Node::Input(i) => input(i),
            Node::Constant(bits) => f64::from_bits(bits),
            Node::Unary(f, a) => f.of(before[a]),
            Node::Binary(f, a, b) => f.of((before[a], before[b])),
            Node::Select(c, a, b) => before[if before[c] == 0.0 { b } else { a }],
        }
    }

    /// The node with renumbered operands.
    fn renumbered(self, new: &[usize]) -> Node {
        match self {
            Node::Input(_) | Node::Constant(_) => self,
            Node::Unary(f, a) => Node::Unary(f, new[a]),
            Node::Binary(f, a, b) => Node::Binary(f, new[a], new[b]),
            Node::Select(c, a, b) => Node::Select(new[c], new[a], new[b]),
        }
    }
}

/// Finished expression: the needed nodes in topological order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Program {
    pub(crate) nodes: Vec<Node>,
    /// Number of inputs, used or not.
    pub(crate) inputs: usize,
    pub(crate) outputs: Vec<usize>,
}

/// Expression under construction.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    interned: HashMap<Node, usize>,
}

impl Graph {
    /// Graph with the nodes of a program at the same indices.
    pub(crate) fn from_program(program: &Program) -> Graph {
        let interned = program.nodes.iter().enumerate().map(|(i, node)| (*node, i)).collect();
        Graph { nodes: program.nodes.clone(), interned }
    }

    /// Number of nodes, which are in topological order.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn node(&self, i: usize) -> Node {
        self.nodes[i]
    }

    pub(crate) fn input(&mut self, i: usize) -> usize {
        self.intern(Node::Input(i))
    }

    pub(crate) fn constant(&mut self, value: f64) -> usize {
        self.intern(Node::Constant(value.to_bits()))
    }

    pub(crate) fn unary(&mut self, f: Unary, a: usize) -> usize {
        match (f, self.nodes[a]) {
            (_, Node::Constant(bits)) => self.constant(f.of(f64::from_bits(bits))),
            (Unary::Neg, Node::Unary(Unary::Neg, x)) => x,
            _ => self.intern(Node::Unary(f, a)),
        }
    }

    pub(crate) fn binary(&mut self, f: Binary, a: usize, b: usize) -> usize {
        use Binary::*;
        match (f, self.value(a), self.value(b)) {
            (_, Some(x), Some(y)) => self.constant(f.of((x, y))),
            (Add | Sub, _, Some(0.0)) | (Mul | Div | Pow, _, Some(1.0)) => a,
            (Add, Some(0.0), _) | (Mul, Some(1.0), _) => b,
            (Sub, Some(0.0), _) | (Mul, Some(-1.0), _) => self.unary(Unary::Neg, b),
            (Mul | Div, _, Some(-1.0)) => self.unary(Unary::Neg, a),
            (Pow, _, Some(2.0)) => self.binary(Mul, a, a),
            (Pow, _, Some(0.5)) => self.unary(Unary::Sqrt, a),
            (Pow, _, Some(-1.0)) => {
                let one = self.constant(1.0);
                self.binary(Div, one, a)
            }
            // Canonical operand order of commutative functions.
            (Add | Mul | Equal, ..) => self.intern(Node::Binary(f, a.min(b), a.max(b))),
            _ => self.intern(Node::Binary(f, a, b)),
        }
    }

    pub(crate) fn select(&mut self, condition: usize, yes: usize, no: usize) -> usize {
        match self.value(condition) {
            Some(0.0) => no,
            Some(_) => yes,
            None if yes == no => yes,
            None => self.intern(Node::Select(condition, yes, no)),
        }
    }

    /// `g * factor` or `g / factor`. Zeros that a select put into `g` stay zero, even if the factor is infinite.
    pub(crate) fn scaled(&mut self, g: usize, f: Binary, factor: usize) -> usize {
        if let Node::Select(c, a, b) = self.nodes[g] {
            let is_zero = |i: usize| self.value(i) == Some(0.0);
            if is_zero(a) {
                let b = self.scaled(b, f, factor);
                return self.select(c, a, b);
            }
            if is_zero(b) {
                let a = self.scaled(a, f, factor);
                return self.select(c, a, b);
            }
        }
        self.binary(f, g, factor)
    }

    /// Inlines a program with the given inputs, and returns its outputs.
    pub(crate) fn inline(&mut self, program: &Program, inputs: &[usize]) -> Vec<usize> {
        let mut new: Vec<usize> = vec![];
        for node in &program.nodes {
            let i = match *node {
                Node::Input(i) => inputs[i],
                Node::Constant(bits) => self.constant(f64::from_bits(bits)),
                Node::Unary(f, a) => self.unary(f, new[a]),
                Node::Binary(f, a, b) => self.binary(f, new[a], new[b]),
                Node::Select(c, a, b) => self.select(new[c], new[a], new[b]),
            };
            new.push(i);
        }
        program.outputs.iter().map(|o| new[*o]).collect()
    }

    /// Program of the given outputs, without unneeded nodes.
    pub(crate) fn program(&self, inputs: usize, outputs: &[usize]) -> Program {
        let mut needed = vec![false; self.nodes.len()];
        outputs.iter().for_each(|o| needed[*o] = true);
        for i in (0..self.nodes.len()).rev() {
            if needed[i] {
                self.nodes[i].operands().for_each(|a| needed[a] = true);
            }
        }
        let (mut nodes, mut new) = (vec![], vec![0; self.nodes.len()]);
        for i in (0..self.nodes.len()).filter(|i| needed[*i]) {
            new[i] = nodes.len();
            nodes.push(self.nodes[i].renumbered(&new));
        }
        Program { nodes, inputs, outputs: outputs.iter().map(|o| new[*o]).collect() }
    }

    /// Value of a constant node.
    pub(crate) fn value(&self, i: usize) -> Option<f64> {
        if let Node::Constant(bits) = self.nodes[i] { Some(f64::from_bits(bits)) } else { None }
    }

    fn intern(&mut self, node: Node) -> usize {
        let nodes = &mut self.nodes;
        *self.interned.entry(node).or_insert_with(|| {
            nodes.push(node);
            nodes.len() - 1
        })
    }
}
