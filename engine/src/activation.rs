//! The activations: which there are.

/// An elementwise nonlinearity. Sub-gradients at kinks are PyTorch's.
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
    /// GELU's approximation by tanh
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
    /// `x` above zero, `slope * x` below
    LeakyRelu(f64),
    /// `x` above zero, `alpha (e^x - 1)` below
    Elu(f64),
    /// `log(1 + e^x)`
    Softplus,
    /// `1.0507 * (x above zero, 1.67326 (e^x - 1) below)`
    Selu,
    /// `x` limited to -1..1
    HardTanh,
    /// `e^x`
    Exp,
}
