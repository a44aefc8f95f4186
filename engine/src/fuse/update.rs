//! Update rules of optimizers, written as expressions for a parameter's next elements and optimizer state. A formula may use sums over
//! the parameter freely. It is split into stages, each a pass over all elements, so that a stage reads only the sums of earlier stages.
//! Only the last stage writes elements and state; no stage reads partly updated elements. `cpu/optimizer` runs the stages,
//! `update_source` generates their CUDA kernels.
use super::Value;
use super::graph::{Graph, Node, Program};
use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// Most moments of a rule: the number of pointers in a kernel launch.
pub(crate) const MAX_MOMENTS: usize = 5;

/// Most shared scalars of a rule.
pub(crate) const MAX_SHARED_SCALARS: usize = 3;

/// Input of a formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Symbol {
    Step,
    Lr,
    BaseLr,
    WeightDecay,
    GradNorm,
    Numel,
    RowLength,
    Ndim,
    SharedScalar(usize),
    ParamScalar,
    IsFactored,
    Sum(usize),
    RowSum(usize),
    Weight,
    Gradient,
    Moment(usize),
    Factored,
}

/// Scope of a value: one per parameter, one per row, or one per element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Parameter,
    Row,
    Element,
}

/// Inputs and reductions of an update formula. The rows of a parameter are the slices along its first axis, which are the units of a
/// layer. A parameter of one axis is a single row.
#[derive(Default)]
pub struct Formula {
    graph: RefCell<Graph>,
    symbols: RefCell<Vec<Symbol>>,
    /// Nodes summed over the parameter, and nodes summed over each row.
    sums: RefCell<Vec<SumTerm>>,
    row_sums: RefCell<Vec<usize>>,
}

#[derive(Clone, Copy)]
struct SumTerm {
    node: usize,
    of_rows: bool,
}

macro_rules! symbols {
    ($($(#[$doc:meta])* $name:ident = $symbol:ident;)*) => {
        impl Formula {
            $($(#[$doc])* pub fn $name(&self) -> Value<'_> {
                self.read(Symbol::$symbol)
            })*
        }
    };
}
symbols! {
    /// Elements before the update.
    weight = Weight;
    /// Gradient, unscaled and clipped.
    gradient = Gradient;
    /// Step count; 1 in the first update.
    step = Step;
    /// Learning rate of the parameter.
    lr = Lr;
    /// Learning rate without the parameter's `lr_scale`.
    base_lr = BaseLr;
    /// Weight decay of the parameter.
    weight_decay = WeightDecay;
    /// Norm of the gradients of all parameters, unscaled and clipped.
    grad_norm = GradNorm;
    /// Number of elements of the parameter.
    numel = Numel;
    /// Number of elements per row.
    row_length = RowLength;
    /// Number of axes of the parameter.
    ndim = Ndim;
    /// Scalar state of the parameter; 0 before the first update.
    param_scalar = ParamScalar;
    /// 1 for parameters with a factored second moment, else 0.
    is_factored = IsFactored;
    /// Factored second moment after the update.
    factored = Factored;
}

impl Formula {
    /// Moment `i` before the update.
    pub fn moment(&self, i: usize) -> Value<'_> {
        self.read(Symbol::Moment(i))
    }

    /// Scalar state `i` shared by all parameters, before the update.
    pub fn shared_scalar(&self, i: usize) -> Value<'_> {
        self.read(Symbol::SharedScalar(i))
    }

    /// Constant.
    pub fn constant(&self, value: f64) -> Value<'_> {
        self.value(self.graph.borrow_mut().constant(value))
    }

    /// Sum over the parameter's elements.
    pub fn sum<'g>(&'g self, x: Value<'g>) -> Value<'g> {
        self.sum_of_term(SumTerm { node: x.node, of_rows: false })
    }

    /// Mean over the parameter's elements.
    pub fn mean<'g>(&'g self, x: Value<'g>) -> Value<'g> {
        self.sum(x) / self.numel()
    }

    /// Sum over each row's elements.
    pub fn row_sum<'g>(&'g self, x: Value<'g>) -> Value<'g> {
        let mut sums = self.row_sums.borrow_mut();
        let k = sums.iter().position(|node| *node == x.node).unwrap_or_else(|| {
            sums.push(x.node);
            sums.len() - 1
        });
        self.read(Symbol::RowSum(k))
    }

    /// Sum over the parameter's rows of an expression of row sums and per-parameter values.
    pub fn sum_of_rows<'g>(&'g self, x: Value<'g>) -> Value<'g> {
        self.sum_of_term(SumTerm { node: x.node, of_rows: true })
    }

    fn sum_of_term(&self, term: SumTerm) -> Value<'_> {
        let mut sums = self.sums.borrow_mut();
        let same = |s: &SumTerm| (s.node, s.of_rows) == (term.node, term.of_rows);
        let k = sums.iter().position(same).unwrap_or_else(|| {
            sums.push(term);
            sums.len() - 1
        });
        self.read(Symbol::Sum(k))
    }

    fn read(&self, symbol: Symbol) -> Value<'_> {
        let mut read = self.symbols.borrow_mut();
        let i = read.iter().position(|s| *s == symbol).unwrap_or_else(|| {
            read.push(symbol);
            read.len() - 1
        });
        self.value(self.graph.borrow_mut().input(i))
    }

    fn value(&self, node: usize) -> Value<'_> {
        Value { graph: &self.graph, node }
    }
}

/// Results of an update formula.
pub struct NextState<'g> {
    /// Elements after the update.
    pub weight: Value<'g>,
    /// Moments after the update, in order.
    pub moments: Vec<Value<'g>>,
    /// Shared scalars after the update. They may depend on themselves, the step count and the base learning rate.
    pub shared_scalars: Vec<Value<'g>>,
    /// Scalar state of the parameter after the update.
    pub param_scalar: Option<Value<'g>>,
}

/// Optimizer state of a rule, with the names used in checkpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerStateSpec {
    /// Names and initial values of the moments, which have the parameter's shape.
    pub moments: Vec<(&'static str, f32)>,
    /// Names and initial values of the scalars shared by all parameters.
    pub shared_scalars: Vec<(&'static str, f32)>,
    /// Name of the scalar state of each parameter.
    pub param_scalar: Option<&'static str>,
    /// Factoring of the second moment of large parameters, which then lack the first entry of `moments`.
    pub factored: Option<Factoring>,
}

/// Factored second moment (Shazeer and Stern, "Adafactor", 2018): running means of `g^2 + eps` over the last axis and over the first axis.
/// The second moment is approximated by their product divided by the mean over both axes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factoring {
    /// The weight of new squares in update t is `t^decay_rate`.
    pub decay_rate: f64,
    /// Added to the squares.
    pub eps: f64,
    /// Only parameters with both axes longer than this are factored.
    pub min_dim_size_to_factor: usize,
}

/// Most positions between first and last axis (the window of a convolution) that the CUDA kernels support.
const MAX_MEANS: usize = 64;

impl Factoring {
    /// Extents of the first axis, of the axes in between, and of the last axis, if the shape is factored: matrices `[a, c]`, tokens
    /// `[1, a, c]` and convolution weights `[a, h, w, c]`.
    pub fn axes(&self, dims: &[usize]) -> Option<[usize; 3]> {
        let axes = match *dims {
            [a, c] | [1, a, c] => [a, 1, c],
            [a, h, w, c] => [a, h * w, c],
            _ => return None,
        };
        (axes[0] > self.min_dim_size_to_factor
            && axes[2] > self.min_dim_size_to_factor
            && axes[1] <= MAX_MEANS)
            .then_some(axes)
    }
}

/// Dedicated CPU loop for a formula. It is used unless gradients are clipped by value or by AGC.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CpuLoop {
    /// `g += weight_decay p`, `b = momentum b + g`, `p -= lr b`, or `p -= lr (g + momentum b)` with `nesterov`. State: b.
    Sgd {
        /// Momentum factor.
        momentum: f64,
        /// Nesterov momentum.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay. State: both moments.
    AdamW {
        /// Decay rates of both moments.
        betas: [f64; 2],
        /// Added to the denominator.
        eps: f64,
    },
}

/// Update rule of an optimizer. Cloning copies the handle.
#[derive(Clone)]
pub struct UpdateRule(Arc<Inner>);

struct Inner {
    name: &'static str,
    state_spec: OptimizerStateSpec,
    stages: Vec<Stage>,
    row_sums: usize,
    sums: usize,
    reads_norm: bool,
    cpu_loop: Option<CpuLoop>,
    kernels: OnceLock<Vec<super::UpdateKernel>>,
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

impl UpdateRule {
    /// Builds a rule from a formula.
    ///
    /// # Panics
    /// If the formula's results do not match the state specification, or the state is too large.
    pub fn new(
        name: &'static str,
        state_spec: OptimizerStateSpec,
        f: impl for<'g> FnOnce(&'g Formula) -> NextState<'g>,
    ) -> UpdateRule {
        let formula = Formula::default();
        let next = f(&formula);
        assert_eq!(next.moments.len(), state_spec.moments.len(), "{name}: one value per moment");
        assert_eq!(
            next.shared_scalars.len(),
            state_spec.shared_scalars.len(),
            "{name}: one value per shared scalar"
        );
        assert_eq!(
            next.param_scalar.is_some(),
            state_spec.param_scalar.is_some(),
            "{name}: a parameter scalar needs a value"
        );
        assert!(
            state_spec.moments.len() <= MAX_MOMENTS && state_spec.shared_scalars.len() <= MAX_SHARED_SCALARS,
            "{name}: at most {MAX_MOMENTS} moments and {MAX_SHARED_SCALARS} shared scalars"
        );
        let mut outputs = vec![(Target::Weight, next.weight.node)];
        outputs.extend(next.moments.iter().enumerate().map(|(i, v)| (Target::Moment(i), v.node)));
        outputs
            .extend(next.shared_scalars.iter().enumerate().map(|(i, v)| (Target::SharedScalar(i), v.node)));
        outputs.extend(next.param_scalar.iter().map(|v| (Target::ParamScalar, v.node)));
        let reads_norm = formula.symbols.borrow().contains(&Symbol::GradNorm);
        let stages = formula.stages(&outputs);
        UpdateRule(Arc::new(Inner {
            name,
            state_spec,
            stages,
            row_sums: formula.row_sums.borrow().len(),
            sums: formula.sums.borrow().len(),
            reads_norm,
            cpu_loop: None,
            kernels: OnceLock::new(),
        }))
    }

    /// Sets a dedicated loop for the CPU.
    ///
    /// # Panics
    /// If the rule was cloned before.
    pub fn with_cpu_loop(mut self, cpu_loop: CpuLoop) -> UpdateRule {
        Arc::get_mut(&mut self.0).expect("a new rule").cpu_loop = Some(cpu_loop);
        self
    }

    pub(crate) fn cpu_loop(&self) -> Option<CpuLoop> {
        self.0.cpu_loop
    }

    /// Name of the rule.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Optimizer state of the rule.
    pub fn state_spec(&self) -> &OptimizerStateSpec {
        &self.0.state_spec
    }

    /// Names of the rule's CUDA kernels, in launch order.
    pub fn kernels(&self) -> Vec<&str> {
        self.sources().iter().map(|source| source.kernel.as_str()).collect()
    }

    /// CUDA source of each kernel of the rule.
    pub fn cuda_sources(&self) -> Vec<&str> {
        self.sources().iter().map(|source| source.text.as_str()).collect()
    }

    pub(crate) fn sources(&self) -> &[super::UpdateKernel] {
        self.0.kernels.get_or_init(|| super::update_source::sources(self))
    }

    pub(crate) fn stages(&self) -> &[Stage] {
        &self.0.stages
    }

    /// Number of sums over a parameter.
    pub(crate) fn sums(&self) -> usize {
        self.0.sums
    }

    /// Number of sums over each row.
    pub(crate) fn row_sums(&self) -> usize {
        self.0.row_sums
    }

    /// True if the formula reads the norm of all gradients.
    pub(crate) fn reads_norm(&self) -> bool {
        self.0.reads_norm
    }
}

impl fmt::Debug for UpdateRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateRule")
            .field("name", &self.0.name)
            .field("state_spec", &self.0.state_spec)
            .finish()
    }
}

impl Formula {
    fn stages(&self, outputs: &[(Target, usize)]) -> Vec<Stage> {
        let (read, sums, row_sums) = (self.symbols.borrow(), self.sums.borrow(), self.row_sums.borrow());
        let graph = self.graph.borrow();
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
                wanted.extend(outputs);
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

impl Node {
    /// Value of the node, given the values of earlier nodes.
    pub(crate) fn value(&self, before: &[f64], input: impl Fn(usize) -> f64) -> f64 {
        use crate::cpu::fuse::functions::{binary_value, unary_value};
        match *self {
            Node::Input(i) => input(i),
            Node::Constant(bits) => f64::from_bits(bits),
            Node::Unary(f, a) => unary_value(f, before[a]),
            Node::Binary(f, a, b) => binary_value(f, (before[a], before[b])),
            Node::Select(c, a, b) => before[if before[c] == 0.0 { b } else { a }],
        }
    }
}
