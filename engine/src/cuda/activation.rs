//! Activations and their gradients (`kernels/cu/activation.cu`).
use super::walk::packs;
use super::{DeviceSlice, Gpu, Grid, Result, args};
use crate::Activation;

/// `y = f(x)`, which may be in place.
pub(crate) fn forward(gpu: &Gpu, f: Activation, x: DeviceSlice, y: DeviceSlice) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let (name, p) = kernel(f);
    gpu.launch(FAMILY, &format!("{name}_fwd_{}", x.dtype), Grid::stride(packs(x)), args![x, y, x.len, p])
}

/// `dx = dy f'(x)`; `dx` may be `dy`.
pub(crate) fn backward(
    gpu: &Gpu,
    f: Activation,
    x: DeviceSlice,
    dy: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let (name, p) = kernel(f);
    gpu.launch(FAMILY, &format!("{name}_bwd_{}", x.dtype), Grid::stride(packs(x)), args![x, dy, dx, x.len, p])
}

const FAMILY: &str = "activation";

/// The name in the kernels, and the number that some take.
fn kernel(f: Activation) -> (&'static str, f32) {
    let (name, p) = match f {
        Activation::Identity => unreachable!("the identity needs no kernel"),
        Activation::Relu => ("relu", 0.0),
        Activation::Relu6 => ("relu6", 0.0),
        Activation::Silu => ("silu", 0.0),
        Activation::Gelu => ("gelu", 0.0),
        Activation::GeluTanh => ("gelu_tanh", 0.0),
        Activation::QuickGelu => ("quick_gelu", 0.0),
        Activation::HardSwish => ("hard_swish", 0.0),
        Activation::HardSigmoid => ("hard_sigmoid", 0.0),
        Activation::Sigmoid => ("sigmoid", 0.0),
        Activation::Mish => ("mish", 0.0),
        Activation::Tanh => ("tanh", 0.0),
        Activation::LeakyRelu(slope) => ("leaky_relu", slope),
        Activation::Elu(alpha) => ("elu", alpha),
        Activation::Softplus => ("softplus", 0.0),
        Activation::Selu => ("selu", 0.0),
        Activation::HardTanh => ("hard_tanh", 0.0),
        Activation::Exp => ("exp", 0.0),
    };
    (name, p as f32)
}
