//! Functions of one and of two tensors' elements, made of primitive ones.
use super::primitive::{BinaryMethods, Scalar, UnaryMethods};
use super::table::{binary_function_rows, unary_function_rows};

/// Elementwise function of one tensor with two parameters.
pub trait UnaryFn: Send + Sync + 'static {
    /// Name of the CUDA kernel.
    const KERNEL: &'static str;
    /// Value of the function.
    fn apply<S: Scalar>(x: S, p: S, q: S) -> S;
}

/// Elementwise function of two tensors.
pub trait BinaryFn: Send + Sync + 'static {
    /// Name of the CUDA kernel.
    const KERNEL: &'static str;
    /// Value of the function.
    fn apply<S: Scalar>(a: S, b: S) -> S;
}

/// Functions of one tensor.
pub mod unary {
    use super::*;

    macro_rules! declare {
        ($($(#[$doc:meta])* $name:ident $kernel:literal, |$x:ident, $p:ident, $q:ident, $c:ident| $value:expr;)*) => {$(
            $(#[$doc])*
            pub struct $name;
            impl UnaryFn for $name {
                const KERNEL: &'static str = $kernel;
                #[inline(always)]
                fn apply<S: Scalar>($x: S, $p: S, $q: S) -> S {
                    let $c = |value| $x.constant(value);
                    let _ = (&$p, &$q, &$c);
                    $value
                }
            }
        )*};
    }
    unary_function_rows!(declare);
}

/// Functions of two tensors.
pub mod binary {
    use super::*;

    macro_rules! declare {
        ($($(#[$doc:meta])* $name:ident $kernel:literal, |$a:ident, $b:ident, $c:ident| $value:expr;)*) => {$(
            $(#[$doc])*
            pub struct $name;
            impl BinaryFn for $name {
                const KERNEL: &'static str = $kernel;
                #[inline(always)]
                fn apply<S: Scalar>($a: S, $b: S) -> S {
                    let $c = |value| $a.constant(value);
                    let _ = &$c;
                    $value
                }
            }
        )*};
    }
    binary_function_rows!(declare);
}
