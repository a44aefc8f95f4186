//! What an expression is written with: numbers that remember how they came about.
use super::graph::{Binary, Graph, Unary};
use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A number of an expression that is being written; see [`super::expression`]. It is copied like any number, and works with
/// `+ - * /` and `f64`.
#[derive(Clone, Copy)]
pub struct Value<'g> {
    pub(super) graph: &'g RefCell<Graph>,
    pub(super) node: usize,
}

/// What stands beside a [`Value`] in an expression: another one, or an `f64`.
pub trait Operand<'g> {
    /// Its number among the nodes of a graph.
    #[doc(hidden)]
    fn node(self, like: Value<'g>) -> usize;
}

impl<'g> Operand<'g> for Value<'g> {
    fn node(self, like: Value<'g>) -> usize {
        debug_assert!(std::ptr::eq(self.graph, like.graph), "a value of one expression within another");
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

    fn unary(self, f: Unary) -> Value<'g> {
        self.with(self.graph.borrow_mut().unary(f, self.node))
    }

    fn binary(self, f: Binary, other: impl Operand<'g>) -> Value<'g> {
        let other = other.node(self);
        self.with(self.graph.borrow_mut().binary(f, self.node, other))
    }

    /// The larger of both, NaN if either is; a tie gives half of the gradient to each.
    pub fn max(self, other: impl Operand<'g>) -> Value<'g> {
        self.binary(Binary::Max, other)
    }

    /// The smaller of both, NaN if either is; a tie gives half of the gradient to each.
    pub fn min(self, other: impl Operand<'g>) -> Value<'g> {
        self.binary(Binary::Min, other)
    }

    /// To a power; the base is positive where the exponent needs a gradient.
    pub fn pow(self, exponent: impl Operand<'g>) -> Value<'g> {
        self.binary(Binary::Pow, exponent)
    }

    /// 1 where `self > other`, else 0; carries no gradient.
    pub fn greater(self, other: impl Operand<'g>) -> Value<'g> {
        self.binary(Binary::Greater, other)
    }

    /// 1 where `self < other`, else 0; carries no gradient.
    pub fn less(self, other: impl Operand<'g>) -> Value<'g> {
        let other = other.node(self);
        self.with(self.graph.borrow_mut().binary(Binary::Greater, other, self.node))
    }

    /// 1 where both are equal, else 0; carries no gradient.
    pub fn equal(self, other: impl Operand<'g>) -> Value<'g> {
        self.binary(Binary::Equal, other)
    }

    /// `yes` where `self`, a comparison, is not 0, else `no`. The branch that is not taken gets a gradient of 0, even where it is
    /// infinite.
    pub fn select(self, yes: impl Operand<'g>, no: impl Operand<'g>) -> Value<'g> {
        let (yes, no) = (yes.node(self), no.node(self));
        self.with(self.graph.borrow_mut().select(self.node, yes, no))
    }

    /// Limited to `low..=high`; the gradient passes inside and at the bounds.
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
        self * self.sigmoid()
    }

    /// `self * Φ(self)`
    pub fn gelu(self) -> Value<'g> {
        0.5 * self * (1.0 + (self * std::f64::consts::FRAC_1_SQRT_2).erf())
    }
}

/// Functions of one number as methods, and as free functions that read as formulas do.
macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $function:ident;)*) => {
        impl<'g> Value<'g> {
            $($(#[$doc])* pub fn $name(self) -> Value<'g> {
                self.unary(Unary::$function)
            })*
        }
        $($(#[$doc])* pub fn $name(x: Value) -> Value {
            x.$name()
        })*
    };
}
functions! {
    /// The absolute value; its gradient at 0 is 0.
    abs = Abs;
    /// `e^x`
    exp = Exp;
    /// `e^x - 1`, precise near 0.
    exp_m1 = ExpM1;
    /// The natural logarithm.
    ln = Ln;
    /// The square root.
    sqrt = Sqrt;
    /// The hyperbolic tangent.
    tanh = Tanh;
    /// `1 / (1 + e^-x)`
    sigmoid = Sigmoid;
    /// `ln(1 + e^x)`, without overflow.
    softplus = Softplus;
    /// The error function.
    erf = Erf;
    /// `max(x, 0)`; its gradient at 0 is 0.
    relu = Relu;
    /// The largest whole number that is not above; carries no gradient.
    floor = Floor;
}

impl<'g> Neg for Value<'g> {
    type Output = Value<'g>;
    fn neg(self) -> Value<'g> {
        self.unary(Unary::Neg)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident;)*) => {$(
        impl<'g, O: Operand<'g>> $trait<O> for Value<'g> {
            type Output = Value<'g>;
            fn $method(self, other: O) -> Value<'g> {
                self.binary(Binary::$trait, other)
            }
        }
        impl<'g> $trait<Value<'g>> for f64 {
            type Output = Value<'g>;
            fn $method(self, other: Value<'g>) -> Value<'g> {
                let left = other.with(Operand::node(self, other));
                left.binary(Binary::$trait, other)
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
