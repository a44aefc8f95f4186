//! Primitive scalar functions: the nodes of expressions, with their values, CUDA text and gradients.
use super::elementary::Elementary;
use super::table::{binary_rows, unary_rows};
use std::ops::{Add, Div, Mul, Neg, Sub};

/// Precision of generated CUDA code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// `float`
    Float,
    /// `double`
    Double,
}

impl Precision {
    /// Type of values.
    pub fn c_type(self) -> &'static str {
        match self {
            Precision::Float => "float",
            Precision::Double => "double",
        }
    }

    /// Suffix of literals and of functions of the C library.
    pub fn suffix(self) -> &'static str {
        match self {
            Precision::Float => "f",
            Precision::Double => "",
        }
    }
}

/// Number or symbolic value: the type in which the formulas of the table compute.
pub trait Scalar:
    Copy + Neg<Output = Self> + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// Constant of the same expression as `self`.
    fn constant(self, value: f64) -> Self;
    /// Primitive function of one value.
    fn unary(self, f: Unary) -> Self;
    /// Primitive function of two values.
    fn binary(self, f: Binary, other: Self) -> Self;
    /// `yes` where `self > other`, else `no`.
    fn where_greater(self, other: Self, yes: Self, no: Self) -> Self;
    /// `yes` where `self == other`, else `no`.
    fn where_equal(self, other: Self, yes: Self, no: Self) -> Self;

    /// `yes` where `self < other`, else `no`.
    #[inline(always)]
    fn where_less(self, other: Self, yes: Self, no: Self) -> Self {
        other.where_greater(self, yes, no)
    }

    /// `self` clamped to `low..=high`; NaN stays NaN.
    #[inline(always)]
    fn clamp(self, low: f64, high: f64) -> Self {
        let (low, high) = (self.constant(low), self.constant(high));
        let x = self.where_less(low, low, self);
        x.where_greater(high, high, x)
    }

    /// 1 strictly between the bounds, else 0.
    #[inline(always)]
    fn inside(self, low: f64, high: f64) -> Self {
        let above = self.binary(Binary::Greater, self.constant(low));
        self.where_less(self.constant(high), above, self.constant(0.0))
    }

    /// `self * factor`, for a gradient. Zeros that a selection put into a symbolic gradient are kept, even if the factor is infinite.
    #[inline(always)]
    fn times(self, factor: Self) -> Self {
        self * factor
    }

    /// `self / divisor`, for a gradient, like [`Scalar::times`].
    #[inline(always)]
    fn over(self, divisor: Self) -> Self {
        self / divisor
    }
}

impl<T: Elementary> Scalar for T {
    #[inline(always)]
    fn constant(self, value: f64) -> T {
        T::from_f64(value)
    }
    #[inline(always)]
    fn unary(self, f: Unary) -> T {
        f.of(self)
    }
    #[inline(always)]
    fn binary(self, f: Binary, other: T) -> T {
        f.of((self, other))
    }
    #[inline(always)]
    fn where_greater(self, other: T, yes: T, no: T) -> T {
        if self > other { yes } else { no }
    }
    #[inline(always)]
    fn where_equal(self, other: T, yes: T, no: T) -> T {
        if self == other { yes } else { no }
    }
}

macro_rules! declare_unary {
    ($($name:ident $($method:ident ($doc:literal))? $cuda:literal, |$v:ident| $value:expr
        $(, |$x:ident, $y:ident, $g:ident, $c:ident| $gradient:expr)?;)*) => {
        /// Primitive function of one value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Unary {
            $(#[doc = concat!("`", $cuda, "`")] $name,)*
        }

        impl Unary {
            /// `f(x)`
            #[inline(always)]
            pub fn of<T: Elementary>(self, x: T) -> T {
                match self {
                    $(Unary::$name => {
                        let $v = x;
                        $value
                    })*
                }
            }

            /// CUDA text of `f(x)`.
            pub fn cuda(self, precision: Precision, x: &str) -> String {
                let text = match self {
                    $(Unary::$name => $cuda,)*
                };
                text.replace("{f}", precision.suffix()).replace("{x}", x)
            }

            /// Gradient of the operand `x`, for the value `y` and its gradient `g`; `None` for a function without one.
            pub fn gradient<S: Scalar>(self, x: S, y: S, g: S) -> Option<S> {
                match self {
                    $(Unary::$name => {
                        let gradient: Option<S> = None;
                        $(let gradient = gradient.or(Some({
                            let ($x, $y, $g, $c) = (x, y, g, |value| g.constant(value));
                            let _ = (&$x, &$y, &$c);
                            $gradient
                        }));)?
                        gradient
                    })*
                }
            }
        }

        /// Primitive functions of one value as methods.
        #[allow(dead_code, reason = "every function has a method")]
        pub trait UnaryMethods: Scalar {
            $($(#[doc = $doc] #[inline(always)] fn $method(self) -> Self {
                self.unary(Unary::$name)
            })?)*
        }
        impl<S: Scalar> UnaryMethods for S {}
    };
}
unary_rows!(declare_unary);

macro_rules! declare_binary {
    ($($name:ident $($method:ident ($doc:literal))? $cuda:literal, |$u:ident, $v:ident| $value:expr
        $(, |$a:ident, $b:ident, $y:ident, $g:ident, $c:ident| $gradient:expr)?;)*) => {
        /// Primitive function of two values. Comparisons are 1 or 0.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Binary {
            $(#[doc = concat!("`", $cuda, "`")] $name,)*
        }

        impl Binary {
            /// `f(a, b)`
            #[inline(always)]
            pub fn of<T: Elementary>(self, (a, b): (T, T)) -> T {
                match self {
                    $(Binary::$name => {
                        let ($u, $v) = (a, b);
                        $value
                    })*
                }
            }

            /// CUDA text of `f(a, b)`.
            pub fn cuda(self, precision: Precision, a: &str, b: &str) -> String {
                let text = match self {
                    $(Binary::$name => $cuda,)*
                };
                text.replace("{f}", precision.suffix()).replace("{a}", a).replace("{b}", b)
            }

            /// Gradients of both operands, for the value `y` and its gradient `g`; `None` for a function without them.
            pub fn gradient<S: Scalar>(self, a: S, b: S, y: S, g: S) -> Option<(S, S)> {
                match self {
                    $(Binary::$name => {
                        let gradient: Option<(S, S)> = None;
                        $(let gradient = gradient.or(Some({
                            let ($a, $b, $y, $g, $c) = (a, b, y, g, |value| g.constant(value));
                            let _ = (&$a, &$b, &$y, &$c);
                            $gradient
                        }));)?
                        gradient
                    })*
                }
            }

            /// True for a function with gradients.
            pub fn has_gradient(self) -> bool {
                self.gradient(0.0f64, 0.0, 0.0, 0.0).is_some()
            }
        }

        /// Primitive functions of two values as methods.
        #[allow(dead_code, reason = "every function has a method")]
        pub trait BinaryMethods: Scalar {
            $($(#[doc = $doc] #[inline(always)] fn $method(self, other: Self) -> Self {
                self.binary(Binary::$name, other)
            })?)*
        }
        impl<S: Scalar> BinaryMethods for S {}
    };
}
binary_rows!(declare_binary);
