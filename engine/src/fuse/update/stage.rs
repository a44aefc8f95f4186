//! Stages of an update formula, each a pass over all elements, so that a stage reads only the sums of earlier stages. Only the last stage
//! writes elements and state; no stage reads partly updated elements.
use super::formula::{Formula, NextState, Symbol};
use crate::fuse::graph::{Node, Program};

/// Scope of a value: one per parameter, one per row, or one per element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Parameter,
    Row,
    Element,
}

/// One pass over all elements of a parameter.
pub(crate) struct Stage {
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) program: Program,
    /// Destination of each output of the program.
    pub(crate) targets: Vec<Target>,
    /// Program run at the end of each row, when its sums are known. Its outputs are terms of sums over rows.
    pub(crate) row_end: Program,
    /// Index of the sum of each output of `row_end`.
    pub(crate) row_end_sums: Vec<usize>,
}

/// Destination of an output of a stage's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Term of a sum over elements.
    Sum(usize),
    /// Term of a sum over a row.
    RowSum(usize),
    Weight,
    Moment(usize),
    SharedScalar(usize),
    ParamScalar,
}

impl Stage {
    /// Scope of each node of a program of this stage.
    pub(crate) fn scopes(&self, program: &Program) -> Vec<Scope> {
        let mut scopes: Vec<Scope> = vec![];
        for node in &program.nodes {
            scopes.push(match node {
                Node::Input(i) => match self.symbols[*i] {
                    Symbol::Weight | Symbol::Gradient | Symbol::Moment(_) | Symbol::Factored => {
                        Scope::Element
                    }
                    Symbol::RowSum(_) => Scope::Row,
                    _ => Scope::Parameter,
                },
                _ => node.operands().map(|a| scopes[a]).max().unwrap_or(Scope::Parameter),
            });
        }
        scopes
    }

    /// Values of the nodes with parameter scope, in f64; NaN for the others.
    pub(crate) fn parameter_values(&self, program: &Program, symbol: impl Fn(Symbol) -> f64) -> Vec<f64> {
        let scopes = self.scopes(program);
        let mut values: Vec<f64> = vec![];
        for (node, scope) in program.nodes.iter().zip(&scopes) {
            let known = *scope == Scope::Parameter;
            values.push(if known { node.value(&values, |i| symbol(self.symbols[i])) } else { f64::NAN });
        }
        values
    }

    /// Symbols read by a program of this stage.
    pub(crate) fn reads<'a>(&'a self, program: &'a Program) -> impl Iterator<Item = Symbol> + 'a {
        let nodes = program.nodes.iter();
        nodes.filter_map(|node| if let Node::Input(i) = node { Some(self.symbols[*i]) } else { None })
    }

    /// True for the last stage, which writes elements.
    pub(crate) fn is_last(&self) -> bool {
        self.targets.contains(&Target::Weight)
    }
}

/// The stages of a formula with these results.
pub(super) fn divide(formula: &Formula, next: &NextState) -> Vec<Stage> {
    let mut outputs = vec![(Target::Weight, next.weight.node)];
    outputs.extend(next.moments.iter().enumerate().map(|(i, v)| (Target::Moment(i), v.node)));
    outputs.extend(next.shared_scalars.iter().enumerate().map(|(i, v)| (Target::SharedScalar(i), v.node)));
    outputs.extend(next.param_scalar.iter().map(|v| (Target::ParamScalar, v.node)));
    let (read, sums, row_sums) = (formula.symbols.borrow(), formula.sums.borrow(), formula.row_sums.borrow());
    let graph = formula.graph.borrow();
    // Sums depend on earlier nodes only, so one pass finds the stage in which each node is known.
    let mut known: Vec<usize> = vec![];
    for i in 0..graph.len() {
        let at = match graph.node(i) {
            Node::Input(k) => match read[k] {
                Symbol::Sum(k) if sums[k].of_rows => known[sums[k].node],
                Symbol::Sum(k) => known[sums[k].node] + 1,
                Symbol::RowSum(k) => known[row_sums[k]] + 1,
                _ => 0,
            },
            node => node.operands().map(|a| known[a]).max().unwrap_or(0),
        };
        known.push(at);
    }
    let last = outputs.iter().map(|(_, node)| known[*node]).max().expect("the weight");
    let stage = |s: usize| {
        let of_elements = sums.iter().enumerate().filter(|(_, sum)| !sum.of_rows && known[sum.node] == s);
        let mut wanted: Vec<_> = of_elements.map(|(k, sum)| (Target::Sum(k), sum.node)).collect();
        let by_row = row_sums.iter().enumerate().filter(|(_, node)| known[**node] == s);
        wanted.extend(by_row.map(|(k, node)| (Target::RowSum(k), *node)));
        if s == last {
            wanted.extend(&outputs);
        }
        let of_rows = sums.iter().enumerate().filter(|(_, sum)| sum.of_rows && known[sum.node] == s + 1);
        let (row_end_sums, ends): (Vec<_>, Vec<_>) = of_rows.map(|(k, sum)| (k, sum.node)).unzip();
        let (targets, nodes): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
        Stage {
            symbols: read.clone(),
            program: graph.program(read.len(), &nodes),
            targets,
            row_end: graph.program(read.len(), &ends),
            row_end_sums,
        }
    };
    (0..=last).map(stage).collect()
}
