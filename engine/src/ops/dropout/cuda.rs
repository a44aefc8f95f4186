//! Dropout (`kernels/cu/dropout/dropout.cu`).
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args};
use crate::random::RngStream;
use fornax_kernels::arguments::PhiloxStream;

/// `y[i] = x[i] * scale` if random number `i` of the stream, advanced by `step` samples, is below `keep_prob`, else 0. With `rows`, row `r`
/// has the random numbers of row `rows[r]` of a larger tensor. `y` may be `x`.
#[expect(clippy::too_many_arguments, reason = "the arguments of the kernel")]
pub(crate) fn forward(
    gpu: &Gpu,
    x: DeviceSlice,
    stream: &RngStream,
    step: Option<DeviceSlice>,
    rows: Option<DeviceSlice>,
    keep_prob: f64,
    scale: f64,
    y: DeviceSlice,
) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let [k0, k1, counter @ ..] = stream.key_and_counter();
    let rng = PhiloxStream { key: [k0, k1], counter };
    let arguments = args![
        x,
        y,
        y.len,
        keep_prob as f32,
        scale as f32,
        KernelArg::by_value(&rng),
        KernelArg::optional(step),
        KernelArg::optional(rows),
        rows.map_or(y.len, |rows| y.len / rows.len)
    ];
    gpu.launch(
        Kernel::new("dropout", "dropout").of(y.dtype),
        LaunchConfig::grid_stride(y.len.div_ceil(4)),
        arguments,
    )
}
