//! Unary and binary functions of fused expressions, over blocks of elements.
use crate::cpu::elementary::Elementary;
use crate::cpu::vectorized::vectorized;
use crate::fuse::graph::{Binary, Unary};

trait Function1 {
    fn of<T: Elementary>(x: T) -> T;
}

trait Function2 {
    fn of<T: Elementary>(ab: (T, T)) -> T;
}

macro_rules! functions {
    ($trait:ident($one:ty, $block:ty), $enum:ident, $map:ident, $each:ident, $value:ident($number:ty); $($name:ident($p:pat) => $body:expr;)*) => {
        $(
            struct $name;
            impl $trait for $name {
                #[inline(always)]
                fn of<T: Elementary>($p: $one) -> T {
                    $body
                }
            }
        )*

        /// `y = f(x)` for blocks of equal length.
        pub(crate) fn $each<T: Elementary>(f: $enum, x: $block, y: &mut [T]) {
            match f {
                $($enum::$name => $map::<T, $name>(x, y),)*
            }
        }

        /// `f(x)` for scalars.
        pub(crate) fn $value(f: $enum, x: $number) -> f64 {
            match f {
                $($enum::$name => $name::of(x),)*
            }
        }
    };
}

// Comparisons are written so that NaN propagates.
functions! {
    Function1(T, &[T]), Unary, map, unary, unary_value(f64);
    Neg(x) => -x;
    Abs(x) => x.abs();
    Exp(x) => x.fast_exp();
    ExpM1(x) => if x > T::from_f64(88.0) { T::infinity() } else { x.fast_exp_m1() };
    Ln(x) => x.ln();
    Sqrt(x) => x.sqrt();
    Tanh(x) => x.fast_tanh();
    Sigmoid(x) => T::one() / (T::one() + (-x).fast_exp());
    Softplus(x) => (-x.abs()).fast_exp().fast_ln_1p() + if x < T::zero() { T::zero() } else { x };
    Erf(x) => x.fast_erf();
    Floor(x) => x.floor();
    Relu(x) => if x < T::zero() { T::zero() } else { x };
}

functions! {
    Function2((T, T), (&[T], &[T])), Binary, zip, binary, binary_value((f64, f64));
    Add((a, b)) => a + b;
    Sub((a, b)) => a - b;
    Mul((a, b)) => a * b;
    Div((a, b)) => a / b;
    Max((a, b)) => {
        let larger = if a > b { a } else { b };
        if a.is_nan() { a } else { larger }
    };
    Min((a, b)) => {
        let smaller = if a < b { a } else { b };
        if a.is_nan() { a } else { smaller }
    };
    Pow((a, b)) => a.powf(b);
    Greater((a, b)) => if a > b { T::one() } else { T::zero() };
    Equal((a, b)) => if a == b { T::one() } else { T::zero() };
}

vectorized! {
    wide fn map<T: Elementary, F: Function1>(x: &[T], y: &mut [T]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = F::of(*x);
        }
    }
}

vectorized! {
    wide fn zip<T: Elementary, F: Function2>(ab: (&[T], &[T]), y: &mut [T]) {
        for ((y, a), b) in y.iter_mut().zip(ab.0).zip(ab.1) {
            *y = F::of((*a, *b));
        }
    }
}

vectorized! {
    /// `yes` where `condition` is non-zero, else `no`.
    pub wide fn select<T: Elementary>(condition: &[T], yes: &[T], no: &[T], y: &mut [T]) {
        for (((y, c), yes), no) in y.iter_mut().zip(condition).zip(yes).zip(no) {
            *y = if *c == T::zero() { *no } else { *yes };
        }
    }
}

vectorized! {
    /// Adds rows of channels to the per-channel sums.
    pub fn add_rows<T: Elementary>(x: &[T], sums: &mut [T]) {
        let c = sums.len();
        for row in x.chunks_exact(c) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += *x;
            }
        }
    }
}
