//! Activation functions.
use super::primitive::{BinaryMethods, Scalar, UnaryMethods};
use super::table::activation_rows;
use std::f64::consts::FRAC_1_SQRT_2;

/// SELU's scale λ.
const SELU_SCALE: f64 = 1.050_700_987_355_480_5;
/// SELU's α, the factor of `e^x - 1` below zero.
const SELU_ALPHA: f64 = 1.673_263_242_354_377_2;
const INV_SQRT_2PI: f64 = 0.398_942_280_401_432_7;
const SQRT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;

/// Activation function and its derivative, both as functions of the input. The value of the type is the parameter.
pub trait ActivationFn: Copy + Send + Sync + 'static {
    /// Parameter, 0 for an activation without one.
    fn parameter(self) -> f64;
    /// `f(x)` with parameter `p`.
    fn value_with<S: Scalar>(x: S, p: S) -> S;
    /// `f'(x)` with parameter `p`.
    fn derivative_with<S: Scalar>(x: S, p: S) -> S;

    /// `f(x)`.
    #[inline(always)]
    fn value<S: Scalar>(self, x: S) -> S {
        Self::value_with(x, x.constant(self.parameter()))
    }

    /// `f'(x)`.
    #[inline(always)]
    fn derivative<S: Scalar>(self, x: S) -> S {
        Self::derivative_with(x, x.constant(self.parameter()))
    }
}

/// Type of the parameter that has a default.
macro_rules! parameter {
    ($default:literal) => {
        f64
    };
}

macro_rules! declare {
    ($($(#[$doc:meta])* $name:ident $(($default:literal))? [$first:literal $(, $alias:literal)*]
        |$x:ident, $p:ident, $c:ident| $value:expr, $derivative:expr;)*) => {
        /// An elementwise activation function. Subgradients at kinks are PyTorch's.
        #[derive(Clone, Copy, Debug, PartialEq, Default)]
        #[non_exhaustive]
        pub enum Activation {
            $($(#[$doc])* $name $((parameter!($default)))?,)*
        }

        impl Activation {
            /// Every activation, with the default of its parameter.
            #[cfg(test)]
            pub(crate) const ALL: &[Activation] = &[$(Activation::$name $(($default))?),*];

            /// Name, which is also the name of its CUDA kernels.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Activation::$name { .. } => $first,)*
                }
            }

            /// Negative slope of leaky ReLU, or α of ELU; 0 for the others.
            pub(crate) fn parameter(self) -> f64 {
                match self {
                    $($(Activation::$name(p) => {
                        let _: parameter!($default) = p;
                        p
                    })?)*
                    _ => 0.0,
                }
            }

            /// `f(x)` with parameter `p`.
            #[cfg(test)]
            pub(crate) fn value<S: Scalar>(self, x: S, p: S) -> S {
                match self {
                    $(Activation::$name { .. } => functions::$name::value_with(x, p),)*
                }
            }

            /// `f'(x)` with parameter `p`.
            pub(crate) fn derivative<S: Scalar>(self, x: S, p: S) -> S {
                match self {
                    $(Activation::$name { .. } => functions::$name::derivative_with(x, p),)*
                }
            }

            /// The activation of that name, with its default parameter or with `p`; `None` for another name, or if it has no parameter.
            fn named(name: &str, p: Option<f64>) -> Option<Activation> {
                match (name, p) {
                    $(($first $(| $alias)*, None) => Some(Activation::$name $(($default))?),)*
                    $($(($first, Some(p)) => {
                        let _: parameter!($default) = p;
                        Some(Activation::$name(p))
                    })?)*
                    _ => None,
                }
            }
        }

        /// Type of each activation, which holds its parameter.
        pub mod functions {
            use super::*;
            $(
                #[doc = concat!("Activation ", $first, ".")]
                #[derive(Clone, Copy)]
                pub struct $name(pub f64);

                impl ActivationFn for $name {
                    fn parameter(self) -> f64 {
                        self.0
                    }
                    #[inline(always)]
                    fn value_with<S: Scalar>($x: S, $p: S) -> S {
                        let $c = |value| $x.constant(value);
                        let _ = (&$p, &$c);
                        $value
                    }
                    #[inline(always)]
                    fn derivative_with<S: Scalar>($x: S, $p: S) -> S {
                        let $c = |value| $x.constant(value);
                        let _ = (&$p, &$c);
                        $derivative
                    }
                }
            )*
        }
    };
}
activation_rows!(declare);

/// True for the activations that normalizations are fused with: each one adds a copy of every fused kernel.
pub(crate) fn is_fused(f: Activation) -> bool {
    use Activation as A;
    matches!(f, A::Identity | A::Relu | A::Relu6 | A::Silu | A::HardSwish)
}

impl std::str::FromStr for Activation {
    type Err = String;

    /// Parses PyTorch's or timm's name; a number after `leaky_relu_` or `elu_` is the parameter, as in `leaky_relu_0.2`.
    fn from_str(name: &str) -> Result<Activation, String> {
        let with_parameter = || {
            let (base, p) = name.rsplit_once('_')?;
            Activation::named(base, Some(p.parse().ok()?))
        };
        with_parameter().or_else(|| Activation::named(name, None)).ok_or_else(|| {
            format!("unknown activation {name:?}; use a name of PyTorch or timm, such as relu, silu, gelu or hard_swish")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tensor, gradients};

    #[test]
    fn derivatives_match_finite_differences() {
        for f in Activation::ALL {
            let value = |x: f64| f.value(x, f.parameter());
            // Points off the kinks.
            for x in [-7.3, -2.9, -0.7, 0.4, 2.2, 5.1, 8.6] {
                let expected = (value(x + 1e-5) - value(x - 1e-5)) / 2e-5;
                let got = f.derivative(x, f.parameter());
                assert!(
                    (got - expected).abs() <= 1e-6 * expected.abs().max(1.0),
                    "{f:?} at {x}: {got}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn names_parse_with_and_without_parameter() {
        for f in Activation::ALL {
            assert_eq!(f.name().parse(), Ok(*f));
        }
        assert_eq!("elu_1.5".parse(), Ok(Activation::Elu(1.5)));
        assert_eq!("hardswish".parse(), Ok(Activation::HardSwish));
        assert!("relu_0.5".parse::<Activation>().is_err() && "nothing".parse::<Activation>().is_err());
    }

    #[test]
    fn gradient_with_create_graph_has_the_bits_of_the_plain_pass() {
        let values: Vec<f32> = (0..400).map(|i| i as f32 * 0.05 - 10.0).collect();
        for f in Activation::ALL.iter().filter(|f| **f != Activation::Identity) {
            let x = Tensor::from_slice(&values, [400]).expect("fits").variable();
            let dy = Tensor::from_vec(values.iter().rev().copied().collect::<Vec<_>>(), [400]).expect("fits");
            let [plain, tracked] = [false, true].map(|create_graph| {
                let y = x.activate(*f).expect("computes");
                let mut all = gradients(&[(&y, &dy)], &[&x], create_graph).expect("differentiates");
                all.remove(0).expect("a gradient").to_vec::<f32>().expect("f32")
            });
            assert!(plain.iter().zip(&tracked).all(|(a, b)| a.to_bits() == b.to_bits()), "{f:?}");
        }
    }
}
