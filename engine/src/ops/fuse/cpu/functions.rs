//! Loops of the primitive functions over blocks of elements.
use crate::cpu::vectorized::vectorized;
use crate::scalar::{Binary, Elementary, Unary, binary_rows, unary_rows};

trait Function1 {
    fn of<T: Elementary>(x: T) -> T;
}

trait Function2 {
    fn of<T: Elementary>(ab: (T, T)) -> T;
}

/// Declares a type for each function, and the function that runs one of them over a block.
macro_rules! loops {
    ($trait:ident($one:ty), $enum:ident, $loop:ident; $($name:ident)*; $(#[$doc:meta])* fn $run:ident($block:ty)) => {
        $(
            struct $name;
            impl $trait for $name {
                #[inline(always)]
                fn of<T: Elementary>(x: $one) -> T {
                    $enum::$name.of(x)
                }
            }
        )*

        $(#[$doc])*
        pub(crate) fn $run<T: Elementary>(f: $enum, x: $block, y: &mut [T]) {
            match f {
                $($enum::$name => $loop::<T, $name>(x, y),)*
            }
        }
    };
}

macro_rules! unary_loops {
    ($($name:ident $($method:ident ($doc:literal))? $cuda:literal, |$v:ident| $value:expr
        $(, |$x:ident, $y:ident, $g:ident, $c:ident| $gradient:expr)?;)*) => {
        loops! {
            Function1(T), Unary, map; $($name)*;
            /// `y = f(x)` for blocks of equal length.
            fn unary(&[T])
        }
    };
}
unary_rows!(unary_loops);

macro_rules! binary_loops {
    ($($name:ident $($method:ident ($doc:literal))? $cuda:literal, |$u:ident, $v:ident| $value:expr
        $(, |$a:ident, $b:ident, $y:ident, $g:ident, $c:ident| $gradient:expr)?;)*) => {
        loops! {
            Function2((T, T)), Binary, zip; $($name)*;
            /// `y = f(a, b)` for blocks of equal length.
            fn binary((&[T], &[T]))
        }
    };
}
binary_rows!(binary_loops);

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
