//! Dropout (`kernels/cu/drop.cu`).
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::random::RngStream;

/// `y[i] = x[i] * factor` where draw `i` of the stream, `step` samples later, is below `keep`, else 0. `y` may be `x`.
pub(crate) fn forward(
    gpu: &Gpu,
    x: DeviceSlice,
    stream: &RngStream,
    step: Option<DeviceSlice>,
    keep: f64,
    factor: f64,
    y: DeviceSlice,
) -> Result<()> {
    if y.len == 0 {
        return Ok(());
    }
    let draws = stream.key_and_counter();
    let arguments = args![x, y, y.len, keep as f32, factor as f32, Arg::of(&draws), Arg::optional(step)];
    gpu.launch("drop", &format!("drop_{}", y.dtype), Grid::stride(y.len.div_ceil(4)), arguments)
}
