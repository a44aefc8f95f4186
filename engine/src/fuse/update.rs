//! The formula of an optimizer's update: an expression for a parameter's next elements and for what the optimizer keeps for it. It is
//! written once, as if every sum over the parameter were at hand; here it is cut into stages, each a pass over all elements, such that a
//! stage reads the sums that those before it made. All but the last make sums alone, and the last writes everything: no stage sees
//! elements that are half updated. `cpu/optimizer` runs the stages, `update_source` makes kernels of them.
use super::Value;
use super::graph::{Graph, Node, Program};
use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// The most moments that a rule keeps: what a launch has room for.
pub(crate) const MAX_MOMENTS: usize = 5;

/// The most numbers that a rule keeps for all parameters together.
pub(crate) const MAX_SHARED_SCALARS: usize = 3;

/// What a formula reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Symbol {
    Updates,
    Rate,
    BaseRate,
    Decay,
    Norm,
    Elements,
    RowLength,
    Axes,
    Memory(usize),
    Kept,
    IsFactored,
    Sum(usize),
    RowSum(usize),
    Weight,
    Gradient,
    Moment(usize),
    Factored,
}

/// How far a number reaches: one for a parameter, one for each of its rows, or one for each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    Parameter,
    Row,
    Element,
}

/// What the numbers of a formula are written with. A parameter's rows are the slices of its first axis, the units of a layer; a
/// parameter of one axis is one row.
#[derive(Default)]
pub struct Formula {
    graph: RefCell<Graph>,
    read: RefCell<Vec<Symbol>>,
    /// Sums over elements, and over rows of what was summed by row: the node that is summed.
    sums: RefCell<Vec<Summed>>,
    row_sums: RefCell<Vec<usize>>,
}

#[derive(Clone, Copy)]
struct Summed {
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
    /// The elements before the update.
    weight = Weight;
    /// Their gradients, unscaled and clipped.
    gradient = Gradient;
    /// The update's number; the first is 1.
    step = Updates;
    /// The parameter's learning rate.
    lr = Rate;
    /// The learning rate without the parameter's own factor.
    base_lr = BaseRate;
    /// The parameter's weight decay.
    weight_decay = Decay;
    /// The norm of all parameters' gradients, unscaled and clipped.
    grad_norm = Norm;
    /// How many elements the parameter has.
    numel = Elements;
    /// How many elements a row has.
    row_length = RowLength;
    /// How many axes the parameter has.
    ndim = Axes;
    /// The number that is kept for the parameter; 0 before the first update.
    param_scalar = Kept;
    /// 1 for a parameter whose second moment is factored, else 0.
    is_factored = IsFactored;
    /// The factored second moment after the update.
    factored = Factored;
}

impl Formula {
    /// A moment before the update.
    pub fn moment(&self, i: usize) -> Value<'_> {
        self.read(Symbol::Moment(i))
    }

    /// A number that is kept for all parameters, before the update.
    pub fn shared_scalar(&self, i: usize) -> Value<'_> {
        self.read(Symbol::Memory(i))
    }

    /// A constant.
    pub fn constant(&self, value: f64) -> Value<'_> {
        self.value(self.graph.borrow_mut().constant(value))
    }

    /// The sum over the parameter's elements.
    pub fn sum<'g>(&'g self, x: Value<'g>) -> Value<'g> {
        self.summed(Summed { node: x.node, of_rows: false })
    }

    /// The mean over the parameter's elements.
    pub fn mean<'g>(&'g self, x: Value<'g>) -> Value<'g> {
        self.sum(x) / self.numel()
    }

    /// For each row, the sum over its elements.
    pub fn row_sum<'g>(&'g self, x: Value<'g>) -> Value<'g> {
        let mut sums = self.row_sums.borrow_mut();
        let k = sums.iter().position(|node| *node == x.node).unwrap_or_else(|| {
            sums.push(x.node);
            sums.len() - 1
        });
        self.read(Symbol::RowSum(k))
    }

    /// The sum over the parameter's rows of what follows from sums by row and numbers of the parameter.
    pub fn sum_of_rows<'g>(&'g self, x: Value<'g>) -> Value<'g> {
        self.summed(Summed { node: x.node, of_rows: true })
    }

    fn summed(&self, summed: Summed) -> Value<'_> {
        let mut sums = self.sums.borrow_mut();
        let same = |s: &Summed| (s.node, s.of_rows) == (summed.node, summed.of_rows);
        let k = sums.iter().position(same).unwrap_or_else(|| {
            sums.push(summed);
            sums.len() - 1
        });
        self.read(Symbol::Sum(k))
    }

    fn read(&self, symbol: Symbol) -> Value<'_> {
        let mut read = self.read.borrow_mut();
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

/// What an update leaves behind.
pub struct NextState<'g> {
    /// The elements.
    pub weight: Value<'g>,
    /// The moments, in order.
    pub moments: Vec<Value<'g>>,
    /// The numbers for all parameters together, which follow from themselves, the update's number and the base rate.
    pub shared_scalars: Vec<Value<'g>>,
    /// The number that is kept for the parameter.
    pub param_scalar: Option<Value<'g>>,
}

/// What a rule keeps between updates, under the names that a checkpoint gives it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerStateSpec {
    /// Moments, each with an element for every one of the parameter, and their first values.
    pub moments: Vec<(&'static str, f32)>,
    /// Numbers for all parameters together, and their first values.
    pub shared_scalars: Vec<(&'static str, f32)>,
    /// A number for each parameter.
    pub param_scalar: Option<&'static str>,
    /// The average of squares of a large parameter as its means over two axes; the parameter then lacks the first moment.
    pub factored: Option<Factoring>,
}

/// How an average of squares is factored (Shazeer and Stern, "Adafactor", 2018): its means over the last axis and over the first one
/// follow those of `g^2 + eps`, and their product over the mean of both stands for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factoring {
    /// Update t gives the new squares the share `t^decay_rate`.
    pub decay_rate: f64,
    /// What is added to squares.
    pub eps: f64,
    /// Both axes are longer than this.
    pub min_dim_size_to_factor: usize,
}

/// The most means that factored kernels have room for: positions of a convolution's window.
const MAX_MEANS: usize = 64;

impl Factoring {
    /// The first axis, those between, and the last one, of a shape that is factored: matrices, the windows of a convolution's channels, and
    /// tokens.
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

/// A loop that the CPU has for a formula, and takes in its place where gradients are not clipped by element or row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CpuLoop {
    /// `g += decay p`, `b = momentum b + g`, `p -= rate b`, or `p -= rate (g + momentum b)`; keeps b.
    Sgd {
        /// What stays of the buffer.
        momentum: f64,
        /// Look one step of momentum ahead.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay; keeps both moments.
    AdamW {
        /// What stays of both moments.
        betas: [f64; 2],
        /// What is added to the denominator.
        eps: f64,
    },
}

/// How weights follow their gradients. Cloning copies the handle.
#[derive(Clone)]
pub struct UpdateRule(Arc<Inner>);

struct Inner {
    name: &'static str,
    keeps: OptimizerStateSpec,
    stages: Vec<Stage>,
    row_sums: usize,
    sums: usize,
    reads_norm: bool,
    cpu_loop: Option<CpuLoop>,
    kernels: OnceLock<Vec<super::UpdateKernel>>,
}

/// One pass over all elements.
pub(crate) struct Stage {
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) program: Program,
    /// What each output of the program is.
    pub(crate) targets: Vec<Target>,
    /// What is computed at the end of a row, when its sums are known: outputs are terms of sums.
    pub(crate) tail: Program,
    /// Which sums.
    pub(crate) tails: Vec<usize>,
}

/// What an output of a stage's program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A term of a sum over elements.
    Sum(usize),
    /// A term of a sum by row.
    RowSum(usize),
    Weight,
    Moment(usize),
    Memory(usize),
    Kept,
}

impl UpdateRule {
    /// The rule that `f` writes.
    ///
    /// # Panics
    /// When what it leaves behind is not what it keeps.
    pub fn new(
        name: &'static str,
        keeps: OptimizerStateSpec,
        f: impl for<'g> FnOnce(&'g Formula) -> NextState<'g>,
    ) -> UpdateRule {
        let formula = Formula::default();
        let next = f(&formula);
        assert_eq!(next.moments.len(), keeps.moments.len(), "{name}: a value for each moment");
        assert_eq!(next.shared_scalars.len(), keeps.shared_scalars.len(), "{name}: a value for each number");
        assert_eq!(
            next.param_scalar.is_some(),
            keeps.param_scalar.is_some(),
            "{name}: a value for the kept number"
        );
        assert!(
            keeps.moments.len() <= MAX_MOMENTS && keeps.shared_scalars.len() <= MAX_SHARED_SCALARS,
            "{name} keeps too much"
        );
        let mut outputs = vec![(Target::Weight, next.weight.node)];
        outputs.extend(next.moments.iter().enumerate().map(|(i, v)| (Target::Moment(i), v.node)));
        outputs.extend(next.shared_scalars.iter().enumerate().map(|(i, v)| (Target::Memory(i), v.node)));
        outputs.extend(next.param_scalar.iter().map(|v| (Target::Kept, v.node)));
        let reads_norm = formula.read.borrow().contains(&Symbol::Norm);
        let stages = formula.stages(&outputs);
        UpdateRule(Arc::new(Inner {
            name,
            keeps,
            stages,
            row_sums: formula.row_sums.borrow().len(),
            sums: formula.sums.borrow().len(),
            reads_norm,
            cpu_loop: None,
            kernels: OnceLock::new(),
        }))
    }

    /// The same rule; the CPU runs it by a loop of its own.
    ///
    /// # Panics
    /// When the rule was cloned before.
    pub fn with_cpu_loop(mut self, cpu_loop: CpuLoop) -> UpdateRule {
        Arc::get_mut(&mut self.0).expect("a new rule").cpu_loop = Some(cpu_loop);
        self
    }

    pub(crate) fn cpu_loop(&self) -> Option<CpuLoop> {
        self.0.cpu_loop
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// What it keeps between updates.
    pub fn state_spec(&self) -> &OptimizerStateSpec {
        &self.0.keeps
    }

    /// The names of its kernels on a GPU, in the order in which they run.
    pub fn kernels(&self) -> Vec<&str> {
        self.sources().iter().map(|source| source.kernel.as_str()).collect()
    }

    /// The CUDA source of each of its kernels.
    pub fn cuda_sources(&self) -> Vec<&str> {
        self.sources().iter().map(|source| source.text.as_str()).collect()
    }

    pub(crate) fn sources(&self) -> &[super::UpdateKernel] {
        self.0.kernels.get_or_init(|| super::update_source::sources(self))
    }

    pub(crate) fn stages(&self) -> &[Stage] {
        &self.0.stages
    }

    /// Sums over a parameter.
    pub(crate) fn sums(&self) -> usize {
        self.0.sums
    }

    /// Sums over each row.
    pub(crate) fn row_sums(&self) -> usize {
        self.0.row_sums
    }

    /// The norm of all gradients is needed.
    pub(crate) fn reads_norm(&self) -> bool {
        self.0.reads_norm
    }
}

impl fmt::Debug for UpdateRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpdateRule").field("name", &self.0.name).field("keeps", &self.0.keeps).finish()
    }
}

impl Formula {
    fn stages(&self, outputs: &[(Target, usize)]) -> Vec<Stage> {
        let (read, sums, row_sums) = (self.read.borrow(), self.sums.borrow(), self.row_sums.borrow());
        let graph = self.graph.borrow();
        // Sums are made of earlier nodes only, so that one pass finds the stage in which each node is known.
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
            let (tails, ends): (Vec<_>, Vec<_>) = of_rows.map(|(k, sum)| (k, sum.node)).unzip();
            let (targets, nodes): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
            Stage {
                symbols: read.clone(),
                program: graph.program(read.len(), &nodes),
                targets,
                tail: graph.program(read.len(), &ends),
                tails,
            }
        };
        (0..=last).map(stage).collect()
    }
}

impl Stage {
    /// How far each node of a program of this stage reaches.
    pub(crate) fn reach(&self, program: &Program) -> Vec<Reach> {
        let mut reach: Vec<Reach> = vec![];
        for node in &program.nodes {
            reach.push(match node {
                Node::Input(i) => match self.symbols[*i] {
                    Symbol::Weight | Symbol::Gradient | Symbol::Moment(_) | Symbol::Factored => {
                        Reach::Element
                    }
                    Symbol::RowSum(_) => Reach::Row,
                    _ => Reach::Parameter,
                },
                _ => node.operands().map(|a| reach[a]).max().unwrap_or(Reach::Parameter),
            });
        }
        reach
    }

    /// The value of every node that reaches over a parameter, in f64; NaN for the others.
    pub(crate) fn numbers(&self, program: &Program, symbol: impl Fn(Symbol) -> f64) -> Vec<f64> {
        let reach = self.reach(program);
        let mut values: Vec<f64> = vec![];
        for (node, reach) in program.nodes.iter().zip(&reach) {
            let known = *reach == Reach::Parameter;
            values.push(if known { node.value(&values, |i| symbol(self.symbols[i])) } else { f64::NAN });
        }
        values
    }

    /// The symbols that one of its programs reads.
    pub(crate) fn reads<'a>(&'a self, program: &'a Program) -> impl Iterator<Item = Symbol> + 'a {
        let nodes = program.nodes.iter();
        nodes.filter_map(|node| if let Node::Input(i) = node { Some(self.symbols[*i]) } else { None })
    }

    /// True for the stage that writes elements.
    pub(crate) fn is_last(&self) -> bool {
        self.targets.contains(&Target::Weight)
    }
}

impl Node {
    /// Its value, given those of the nodes before it.
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
