//! Elementwise functions of one operand and up to two numbers.
use super::parallel::for_each_piece;
use super::vectorized::vectorized;
use crate::dtype::Real;

/// A function of a number and two constants.
pub trait UnaryFn: Send + Sync + 'static {
    /// What the CUDA kernel is called.
    const KERNEL: &'static str;
    /// Its value.
    fn apply<T: Real>(x: T, p: T, q: T) -> T;
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $kernel:literal, ($x:ident, $p:ident, $q:ident) => $e:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl UnaryFn for $name {
            const KERNEL: &'static str = $kernel;
            #[inline(always)]
            fn apply<T: Real>($x: T, $p: T, $q: T) -> T {
                $e
            }
        }
    )*};
}
unary! {
    /// `p * x + q`
    Affine = "affine", (x, p, q) => p * x + q;
    /// `p * x`
    MulScalar = "mul_scalar", (x, p, _q) => p * x;
    /// `|x|`
    Abs = "abs", (x, _p, _q) => x.abs();
    /// The sign of x, 0 at 0.
    Sign = "sign", (x, _p, _q) => if x > T::zero() { T::one() } else if x < T::zero() { -T::one() } else { T::zero() };
    /// `sqrt(x)`
    Sqrt = "sqrt", (x, _p, _q) => x.sqrt();
    /// The natural logarithm.
    Ln = "ln", (x, _p, _q) => x.ln();
    /// `x * x`
    Square = "square", (x, _p, _q) => x * x;
    /// `x` to the power `p`.
    PowScalar = "pow_scalar", (x, p, _q) => x.powf(p);
    /// `x` between `p` and `q`; NaN stays.
    Clamp = "clamp", (x, p, q) => if x < p { p } else if x > q { q } else { x };
    /// 1 where `p <= x <= q`, else 0.
    Within = "within", (x, p, q) => if x >= p && x <= q { T::one() } else { T::zero() };
    /// 1 where `x > p`, else 0.
    Greater = "greater", (x, p, _q) => if x > p { T::one() } else { T::zero() };
}

/// `y = F(x, p, q)`.
pub fn forward<T: Real, F: UnaryFn>(x: &[T], p: T, q: T, y: &mut [T]) {
    for_each_piece(y, |start, y| piece::<T, F>(&x[start..start + y.len()], p, q, y));
}

vectorized! {
    /// One piece of the result.
    wide fn piece<T: Real, F: UnaryFn>(x: &[T], p: T, q: T, y: &mut [T]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = F::apply(*x, p, q);
        }
    }
}
