//! Activations and their derivatives, elementwise, as compiled loops over the formulas of `scalar`.
use crate::Activation;
use crate::cpu::parallel::for_each_piece;
use crate::cpu::vectorized::vectorized;
use crate::scalar::Elementary;
pub(crate) use crate::scalar::activation::ActivationFn;
use crate::scalar::activation_rows;

/// Evaluates `$body` with `$f` bound to the [`ActivationFn`] of an activation that normalizations are fused with. Each one adds a copy of
/// every fused kernel.
macro_rules! with_fused_activation {
    ($activation:expr, $f:ident => $body:expr) => {
        with_fused_activation!(@ $activation, $f, $body; Identity Relu Relu6 Silu HardSwish)
    };
    (@ $activation:expr, $f:ident, $body:expr; $($name:ident)*) => {
        match $activation {
            $($crate::Activation::$name => { let $f = $crate::scalar::activation::functions::$name(0.0); $body })*
            other => unreachable!("{other:?} is not fused"),
        }
    };
}
pub(crate) use with_fused_activation;

macro_rules! loops {
    ($($(#[$doc:meta])* $name:ident $(($default:literal))? [$first:literal $(, $alias:literal)*]
        |$v:ident, $p:ident, $c:ident| $value:expr, $derivative:expr;)*) => {
        /// `y = f(x)`.
        pub fn forward<T: Elementary>(f: Activation, x: &[T], y: &mut [T]) {
            use crate::scalar::activation::functions;
            match f {
                $(Activation::$name { .. } => {
                    let f = functions::$name(f.parameter());
                    for_each_piece(y, |start, y| forward_slice(f, &x[start..start + y.len()], y));
                })*
            }
        }

        /// `dx = dy * f'(x)`.
        pub fn backward<T: Elementary>(f: Activation, x: &[T], dy: &[T], dx: &mut [T]) {
            use crate::scalar::activation::functions;
            match f {
                $(Activation::$name { .. } => {
                    let f = functions::$name(f.parameter());
                    for_each_piece(dx, |start, dx| {
                        let end = start + dx.len();
                        backward_slice(f, &x[start..end], &dy[start..end], dx);
                    });
                })*
            }
        }
    };
}
activation_rows!(loops);

vectorized! {
    wide fn forward_slice<T: Elementary, F: ActivationFn>(f: F, x: &[T], y: &mut [T]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = f.value(*x);
        }
    }
}

vectorized! {
    wide fn backward_slice<T: Elementary, F: ActivationFn>(f: F, x: &[T], dy: &[T], dx: &mut [T]) {
        for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = *dy * f.derivative(*x);
        }
    }
}
