//! Activations and their gradients (`kernels/cu/elementwise/activation.cu`).
use crate::Activation;
use crate::cuda::launch::strided_pair::num_packs;
use crate::cuda::{DeviceSlice, Gpu, Kernel, LaunchConfig, Result, args};

/// `y = f(x)`; `y` may be `x`.
pub(crate) fn forward(gpu: &Gpu, f: Activation, x: DeviceSlice, y: DeviceSlice) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    gpu.launch(
        Kernel::joined(MODULE, [f.name(), "_fwd", ""]).of(x.dtype),
        LaunchConfig::grid_stride(num_packs(x)),
        args![x, y, x.len, f.parameter() as f32],
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
    gpu.launch(
        Kernel::joined(MODULE, [f.name(), "_bwd", ""]).of(x.dtype),
        LaunchConfig::grid_stride(num_packs(x)),
        args![x, dy, dx, x.len, f.parameter() as f32],
    )
}

const MODULE: &str = "activation";
