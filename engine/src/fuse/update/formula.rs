//! Formulas of optimizers: expressions for a parameter's next elements and optimizer state. A formula may use sums over the parameter freely.
use crate::fuse::graph::Graph;
use crate::fuse::value::Value;
use std::cell::RefCell;

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

/// Inputs and reductions of an update formula. The rows of a parameter are the slices along its first axis, which are the units of a
/// layer. A parameter of one axis is a single row.
#[derive(Default)]
pub struct Formula {
    pub(super) graph: RefCell<Graph>,
    pub(super) symbols: RefCell<Vec<Symbol>>,
    /// Nodes summed over the parameter, and nodes summed over each row.
    pub(super) sums: RefCell<Vec<SumTerm>>,
    pub(super) row_sums: RefCell<Vec<usize>>,
}

/// Node that is summed over the elements or over the rows of a parameter.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct SumTerm {
    pub(super) node: usize,
    pub(super) of_rows: bool,
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
        let k = sums.iter().position(|s| *s == term).unwrap_or_else(|| {
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
