//! Activations and their gradients (`kernels/cu/elementwise/activation.cu`).
use super::strided_pair::num_packs;
use super::{DeviceSlice, Gpu, Kernel, LaunchConfig, Result, args};
use crate::Activation;

/// `y = f(x)`; `y` may be `x`.
pub(crate) fn forward(gpu: &Gpu, f: Activation, x: DeviceSlice, y: DeviceSlice) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let (name, p) = kernel(f);
    gpu.launch(
        Kernel::joined(MODULE, [name, "_fwd", ""]).of(x.dtype),
        LaunchConfig::grid_stride(num_packs(x)),
        args![x, y, x.len, p],
    )
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
    gpu.launch(
        Kernel::joined(MODULE, [name, "_bwd", ""]).of(x.dtype),
        LaunchConfig::grid_stride(num_packs(x)),
        args![x, dy, dx, x.len, p],
    )
}

const MODULE: &str = "activation";

/// Kernel name of an activation, and the parameter of leaky ReLU (negative slope) and ELU (alpha).
fn kernel(f: Activation) -> (&'static str, f32) {
    let (name, p) = match f {
        Activation::Identity => unreachable!("the identity has no kernel"),
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
        Activation::LeakyRelu(negative_slope) => ("leaky_relu", negative_slope),
        Activation::Elu(alpha) => ("elu", alpha),
        Activation::Softplus => ("softplus", 0.0),
        Activation::Selu => ("selu", 0.0),
        Activation::HardTanh => ("hard_tanh", 0.0),
        Activation::Exp => ("exp", 0.0),
    };
    (name, p as f32)
}
