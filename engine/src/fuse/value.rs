//! Symbolic values, which record the expression that computes them.
use super::graph::{Binary, Graph, Unary};
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

    fn unary(self, f: Unary) -> Value<'g> {
        self.with(self.graph.borrow_mut().unary(f, self.node))
    }

    fn binary(self, f: Binary, other: impl Operand<'g>) -> Value<'g> {
        let other = other.node(self);
        self.with(self.graph.borrow_mut().binary(f, self.node, other))
    }

    /// Maximum; NaN if either value is NaN. At a tie each operand gets half of the gradient.
    pub fn max(self, other: impl Operand<'g>) -> Value<'g> {
        self.binary(Binary::Max, other)
    }

    /// Minimum; NaN if either value is NaN. At a tie each operand gets half of the gradient.
    pub fn min(self, other: impl Operand<'g>) -> Value<'g> {
        self.binary(Binary::Min, other)
    }

    /// `self` to the power `exponent`. The gradient of the exponent requires a positive base.
    pub fn pow(self, exponent: impl Operand<'g>) -> Value<'g> {
        self.binary(Binary::Pow, exponent)
    }

    /// 1 where `self > other`, else 0. Has no gradient.
    pub fn greater(self, other: impl Operand<'g>) -> Value<'g> {
        self.binary(Binary::Greater, other)
    }

    /// 1 where `self < other`, else 0. Has no gradient.
    pub fn less(self, other: impl Operand<'g>) -> Value<'g> {
        let other = other.node(self);
        self.with(self.graph.borrow_mut().binary(Binary::Greater, other, self.node))
    }

    /// 1 where both are equal, else 0. Has no gradient.
    pub fn equal(self, other: impl Operand<'g>) -> Value<'g> {
        self.binary(Binary::Equal, other)
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
        self * self.sigmoid()
    }

    /// `self * Φ(self)`
    pub fn gelu(self) -> Value<'g> {
        0.5 * self * (1.0 + (self * std::f64::consts::FRAC_1_SQRT_2).erf())
    }
}

/// Unary functions, as methods and as free functions.
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
    /// Absolute value; the gradient at 0 is 0.
    abs = Abs;
    /// `e^x`
    exp = Exp;
    /// `e^x - 1`, accurate near 0.
    exp_m1 = ExpM1;
    /// Natural logarithm.
    ln = Ln;
    /// Square root.
    sqrt = Sqrt;
    /// Hyperbolic tangent.
    tanh = Tanh;
    /// `1 / (1 + e^-x)`
    sigmoid = Sigmoid;
    /// `ln(1 + e^x)`, without overflow.
    softplus = Softplus;
    /// Error function.
    erf = Erf;
    /// `max(x, 0)`; the gradient at 0 is 0.
    relu = Relu;
    /// Largest integer not above `x`. Has no gradient.
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
