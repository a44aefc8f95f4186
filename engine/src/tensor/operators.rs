//! Arithmetic operators: `+ - * /` of tensors and numbers, and unary minus.
//!
//! Every operator returns a `Result`. An operand may be a `Result` itself if the other one is a tensor, so only every second operator of an
//! expression needs a `?`:
//!
//! ```
//! # use fornax_engine::{Result, Tensor};
//! # fn main() -> Result<()> {
//! let a = Tensor::from_slice(&[1.0f32, 2.0], [2])?;
//! let b = Tensor::from_slice(&[10.0f32, 20.0], [2])?;
//! let y = ((&a + &b)? * 2.0 - &a)?;
//! assert_eq!(y.to_vec::<f32>()?, [21.0, 42.0]);
//! assert_eq!((1.0 - (-&a)?)?.to_vec::<f32>()?, [2.0, 3.0]);
//! # Ok(()) }
//! ```
use crate::{Error, Result, Tensor};
use std::borrow::Borrow;
use std::ops::{Add, Div, Mul, Neg, Sub};

macro_rules! operator {
    ($trait:ident, $method:ident, |$x:ident, $n:ident| $with_number:expr, $number_with:expr) => {
        impl<B: Borrow<Tensor>> $trait<B> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: B) -> Result<Tensor> {
                Tensor::$method(self, other.borrow())
            }
        }
        impl<B: Borrow<Tensor>> $trait<B> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: B) -> Result<Tensor> {
                Tensor::$method(&self, other.borrow())
            }
        }
        impl<B: Borrow<Tensor>> $trait<std::result::Result<B, Error>> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: std::result::Result<B, Error>) -> Result<Tensor> {
                Tensor::$method(self, other?.borrow())
            }
        }
        impl<B: Borrow<Tensor>> $trait<std::result::Result<B, Error>> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: std::result::Result<B, Error>) -> Result<Tensor> {
                Tensor::$method(&self, other?.borrow())
            }
        }
        impl<B: Borrow<Tensor>> $trait<Tensor> for std::result::Result<B, Error> {
            type Output = Result<Tensor>;
            fn $method(self, other: Tensor) -> Result<Tensor> {
                Tensor::$method(self?.borrow(), &other)
            }
        }
        impl<B: Borrow<Tensor>> $trait<&Tensor> for std::result::Result<B, Error> {
            type Output = Result<Tensor>;
            fn $method(self, other: &Tensor) -> Result<Tensor> {
                Tensor::$method(self?.borrow(), other)
            }
        }
        impl $trait<f64> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, $n: f64) -> Result<Tensor> {
                let $x = self;
                $with_number
            }
        }
        impl $trait<f64> for Tensor {
            type Output = Result<Tensor>;
            fn $method(self, $n: f64) -> Result<Tensor> {
                let $x = &self;
                $with_number
            }
        }
        impl $trait<&Tensor> for f64 {
            type Output = Result<Tensor>;
            fn $method(self, $x: &Tensor) -> Result<Tensor> {
                let $n = self;
                $number_with
            }
        }
        impl $trait<Tensor> for f64 {
            type Output = Result<Tensor>;
            fn $method(self, x: Tensor) -> Result<Tensor> {
                let ($x, $n) = (&x, self);
                $number_with
            }
        }
    };
}

operator!(Add, add, |x, n| x.affine(1.0, n), x.affine(1.0, n));
operator!(Sub, sub, |x, n| x.affine(1.0, -n), x.affine(-1.0, n));
operator!(Mul, mul, |x, n| x.mul_scalar(n), x.mul_scalar(n));
operator!(Div, div, |x, n| Tensor::div(x, &number(n, x)?), Tensor::div(&number(n, x)?, x));

/// A number as a tensor that `x` is divided by, or that is divided by it.
fn number(n: f64, x: &Tensor) -> Result<Tensor> {
    Tensor::full((), n, x.dtype(), &x.device())
}

impl Neg for &Tensor {
    type Output = Result<Tensor>;
    fn neg(self) -> Result<Tensor> {
        Tensor::neg(self)
    }
}

impl Neg for Tensor {
    type Output = Result<Tensor>;
    fn neg(self) -> Result<Tensor> {
        Tensor::neg(&self)
    }
}
