//! Elementwise unary operations with up to two scalar arguments.
use super::parallel::for_each_piece;
use super::vectorized::vectorized;
use crate::dtype::Real;

/// Elementwise unary operation with two scalar arguments.
pub trait UnaryFn: Send + Sync + 'static {
    /// Name of the CUDA kernel.
    const KERNEL: &'static str;
    /// Value of the operation.
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
    /// Sign of `x`, 0 at 0.
    Sign = "sign", (x, _p, _q) => if x > T::zero() { T::one() } else if x < T::zero() { -T::one() } else { T::zero() };
    /// `sqrt(x)`
    Sqrt = "sqrt", (x, _p, _q) => x.sqrt();
    /// Natural logarithm.
    Ln = "ln", (x, _p, _q) => x.ln();
    /// `x * x`
    Square = "square", (x, _p, _q) => x * x;
    /// `x` to the power `p`.
    PowScalar = "pow_scalar", (x, p, _q) => x.powf(p);
    /// `x` clamped to `p..=q`; NaN stays NaN.
    Clamp = "clamp", (x, p, q) => if x < p { p } else if x > q { q } else { x };
    /// 1 where `p <= x <= q`, else 0.
    Within = "within", (x, p, q) => if x >= p && x <= q { T::one() } else { T::zero() };
    /// 1 where `x > p`, else 0.
    Greater = "greater", (x, p, _q) => if x > p { T::one() } else { T::zero() };
}

/// `y = F(x, p, q)`.
pub fn forward<T: Real, F: UnaryFn>(x: &[T], p: T, q: T, y: &mut [T]) {
    for_each_piece(y, |start, y| apply_chunk::<T, F>(&x[start..start + y.len()], p, q, y));
}

vectorized! {
    /// One chunk of the result.
    wide fn apply_chunk<T: Real, F: UnaryFn>(x: &[T], p: T, q: T, y: &mut [T]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = F::apply(*x, p, q);
        }
    }
}
