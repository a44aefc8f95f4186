//! Symbolic values, which record the expression that computes them.
use super::graph::{Graph, Program};
use crate::scalar::activation::{ActivationFn, functions};
use crate::scalar::{Binary, Scalar, Unary, binary_rows, unary_rows};
use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// Symbolic value of an expression under construction; see [`super::expression`]. It is `Copy` and supports `+ - * /` with other values
/// and with `f64`.
#[derive(Clone, Copy)]
pub struct Value<'g> {
    pub(super) graph: &'g RefCell<Graph>,
    pub(super) node: usize,
}

/// Operand of a [`Value`]'s methods: another value, or an `f64`.
pub trait Operand<'g> {
    /// Index of the operand's node in the graph.
    #[doc(hidden)]
    fn node(self, like: Value<'g>) -> usize;
}

impl<'g> Operand<'g> for Value<'g> {
    fn node(self, like: Value<'g>) -> usize {
        debug_assert!(std::ptr::eq(self.graph, like.graph), "the value belongs to another expression");
        self.node
    }
}

impl<'g> Operand<'g> for f64 {
    fn node(self, like: Value<'g>) -> usize {
        like.graph.borrow_mut().constant(self)
    }
}

impl<'g> Value<'g> {
    fn with(self, node: usize) -> Value<'g> {
        Value { node, ..self }
    }

    /// Applies a program of one output.
    pub(super) fn of_program<const N: usize>(program: &Program, inputs: [Value<'g>; N]) -> Value<'g> {
        let nodes = inputs[0].graph.borrow_mut().inline(program, &inputs.map(|value| value.node));
        inputs[0].with(nodes[0])
    }

    /// 1 where `self < other`, else 0. Has no gradient.
    pub fn less(self, other: impl Operand<'g>) -> Value<'g> {
        let other = other.node(self);
        self.with(self.graph.borrow_mut().binary(Binary::Greater, other, self.node))
    }

    /// `yes` where `self` is non-zero, else `no`. The gradient of the branch not selected is 0, even where its value is infinite.
    pub fn select(self, yes: impl Operand<'g>, no: impl Operand<'g>) -> Value<'g> {
        let (yes, no) = (yes.node(self), no.node(self));
        self.with(self.graph.borrow_mut().select(self.node, yes, no))
    }

    /// Clamps to `low..=high`. The gradient is 1 inside and at the bounds, 0 outside.
    pub fn clamp(self, low: f64, high: f64) -> Value<'g> {
        self.less(low).select(low, self.greater(high).select(high, self))
    }

    /// `1 / sqrt(self)`
    pub fn rsqrt(self) -> Value<'g> {
        1.0 / self.sqrt()
    }

    /// `self * self`
    pub fn square(self) -> Value<'g> {
        self * self
    }

    /// `self * sigmoid(self)`
    pub fn silu(self) -> Value<'g> {
        functions::Silu(0.0).value(self)
    }

    /// `self * Φ(self)`
    pub fn gelu(self) -> Value<'g> {
        functions::Gelu(0.0).value(self)
    }
}

/// Traces a function of [`Value`]s to a program.
pub(super) fn trace<const N: usize, const M: usize>(
    f: impl for<'g> FnOnce([Value<'g>; N]) -> [Value<'g>; M],
) -> Program {
    let graph = RefCell::new(Graph::default());
    let inputs = std::array::from_fn(|i| {
        let node = graph.borrow_mut().input(i);
        Value { graph: &graph, node }
    });
    let outputs = f(inputs).map(|value| value.node);
    graph.borrow().program(N, &outputs)
}

impl<'g> Scalar for Value<'g> {
    fn constant(self, value: f64) -> Value<'g> {
        self.with(self.graph.borrow_mut().constant(value))
    }

    fn unary(self, f: Unary) -> Value<'g> {
        self.with(self.graph.borrow_mut().unary(f, self.node))
    }

    fn binary(self, f: Binary, other: Value<'g>) -> Value<'g> {
        self.with(self.graph.borrow_mut().binary(f, self.node, other.node))
    }

    fn where_greater(self, other: Value<'g>, yes: Value<'g>, no: Value<'g>) -> Value<'g> {
        self.greater(other).select(yes, no)
    }

    fn where_equal(self, other: Value<'g>, yes: Value<'g>, no: Value<'g>) -> Value<'g> {
        self.equal(other).select(yes, no)
    }

    fn times(self, factor: Value<'g>) -> Value<'g> {
        self.with(self.graph.borrow_mut().scaled(self.node, Binary::Mul, factor.node))
    }

    fn over(self, divisor: Value<'g>) -> Value<'g> {
        self.with(self.graph.borrow_mut().scaled(self.node, Binary::Div, divisor.node))
    }
}

/// Primitive functions of one value, as methods and as free functions.
macro_rules! unary_methods {
    ($($name:ident $($method:ident ($doc:literal))? $cuda:literal, |$v:ident| $value:expr
        $(, |$x:ident, $y:ident, $g:ident, $c:ident| $gradient:expr)?;)*) => {
        impl<'g> Value<'g> {
            $($(#[doc = $doc] pub fn $method(self) -> Value<'g> {
                Scalar::unary(self, Unary::$name)
            })?)*
        }
        $($(#[doc = $doc] pub fn $method(x: Value) -> Value {
            x.$method()
        })?)*
    };
}
unary_rows!(unary_methods);

/// Primitive functions of two values, as methods.
macro_rules! binary_methods {
    ($($name:ident $($method:ident ($doc:literal))? $cuda:literal, |$u:ident, $v:ident| $value:expr
        $(, |$a:ident, $b:ident, $y:ident, $g:ident, $c:ident| $gradient:expr)?;)*) => {
        impl<'g> Value<'g> {
            $($(#[doc = $doc] pub fn $method(self, other: impl Operand<'g>) -> Value<'g> {
                Scalar::binary(self, Binary::$name, self.with(other.node(self)))
            })?)*
        }
    };
}
binary_rows!(binary_methods);

impl<'g> Neg for Value<'g> {
    type Output = Value<'g>;
    fn neg(self) -> Value<'g> {
        Scalar::unary(self, Unary::Neg)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident;)*) => {$(
        impl<'g, O: Operand<'g>> $trait<O> for Value<'g> {
            type Output = Value<'g>;
            fn $method(self, other: O) -> Value<'g> {
                Scalar::binary(self, Binary::$trait, self.with(other.node(self)))
            }
        }
        impl<'g> $trait<Value<'g>> for f64 {
            type Output = Value<'g>;
            fn $method(self, other: Value<'g>) -> Value<'g> {
                let left = other.with(Operand::node(self, other));
                Scalar::binary(left, Binary::$trait, other)
            }
        }
    )*};
}
operators! {
    Add add;
    Sub sub;
    Mul mul;
    Div div;
}
