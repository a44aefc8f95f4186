//! Activation functions.

/// An elementwise activation function. Subgradients at kinks are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[non_exhaustive]
pub enum Activation {
    /// `x`
    #[default]
    Identity,
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `x sigmoid(x)`
    Silu,
    /// `x Φ(x)`, with the error function
    Gelu,
    /// GELU's tanh approximation
    GeluTanh,
    /// `x sigmoid(1.702 x)`
    QuickGelu,
    /// `x relu6(x + 3) / 6`
    HardSwish,
    /// `relu6(x + 3) / 6`
    HardSigmoid,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// `x tanh(softplus(x))`
    Mish,
    /// The hyperbolic tangent
    Tanh,
    /// `x` above zero, `negative_slope * x` below
    LeakyRelu(f64),
    /// `x` above zero, `alpha (e^x - 1)` below
    Elu(f64),
    /// `log(1 + e^x)`
    Softplus,
    /// `1.0507 * (x above zero, 1.67326 (e^x - 1) below)`
    Selu,
    /// `x` clamped to -1..1
    HardTanh,
    /// `e^x`
    Exp,
}

impl std::str::FromStr for Activation {
    type Err = String;

    /// Parses PyTorch's or timm's name; a number after `leaky_relu_` or `elu_` is the parameter, as in `leaky_relu_0.2`.
    fn from_str(name: &str) -> Result<Activation, String> {
        if let Some((base, parameter)) = name.rsplit_once('_')
            && let Ok(p) = parameter.parse::<f64>()
        {
            match base {
                "leaky_relu" => return Ok(Activation::LeakyRelu(p)),
                "elu" => return Ok(Activation::Elu(p)),
                _ => {}
            }
        }
        Ok(match name {
            "identity" => Activation::Identity,
            "relu" => Activation::Relu,
            "relu6" => Activation::Relu6,
            "silu" | "swish" => Activation::Silu,
            "gelu" => Activation::Gelu,
            "gelu_tanh" => Activation::GeluTanh,
            "quick_gelu" => Activation::QuickGelu,
            "hardswish" | "hard_swish" => Activation::HardSwish,
            "hardsigmoid" | "hard_sigmoid" => Activation::HardSigmoid,
            "sigmoid" => Activation::Sigmoid,
            "mish" => Activation::Mish,
            "tanh" => Activation::Tanh,
            "leaky_relu" => Activation::LeakyRelu(0.01),
            "elu" => Activation::Elu(1.0),
            "softplus" => Activation::Softplus,
            "selu" => Activation::Selu,
            "hardtanh" => Activation::HardTanh,
            "exp" => Activation::Exp,
            _ => {
                return Err(format!(
                    "unknown activation {name:?}; use a name of PyTorch or timm, such as relu, silu, gelu or hard_swish"
                ));
            }
        })
    }
}
