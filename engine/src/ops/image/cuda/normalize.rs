//! Normalization of u8 images (`kernels/cu/image/normalize.cu`).
use crate::DType;
use crate::cuda::launch::strided_pair::num_packs;
use crate::cuda::{DeviceSlice, Gpu, Kernel, KernelArg, LaunchConfig, Result, args, int};
use fornax_kernels::arguments::{INLINE_CHANNELS, InlineMeanStd};
use std::sync::Arc;

/// `y = (x / max_value - mean) / std` by channel (the last axis). Mean and std of up to four channels are passed by value, so that the
/// first launch can be captured; more channels are uploaded at their first use.
pub(crate) fn forward(
    gpu: &Arc<Gpu>,
    x: DeviceSlice,
    max_value: f32,
    [mean, std]: [&[f32]; 2],
    y: DeviceSlice,
) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let (channels, grid) = (int(mean.len()), LaunchConfig::grid_stride(num_packs(y)));
    if let Some(mean_std) = inline(mean, std) {
        let arguments = args![x, y, x.len, channels, max_value, KernelArg::by_value(&mean_std)];
        return gpu.launch(Kernel::new(MODULE, "normalize").of(y.dtype), grid, arguments);
    }
    let tables =
        [gpu.constant_table(bytemuck::cast_slice(mean))?, gpu.constant_table(bytemuck::cast_slice(std))?];
    let [device_mean, device_std] = tables.each_ref().map(|table| table.as_slice(DType::F32));
    let arguments = args![x, y, x.len, channels, max_value, device_mean, device_std];
    gpu.launch(Kernel::new(MODULE, "normalize_device_stats").of(y.dtype), grid, arguments)
}

const MODULE: &str = "normalize";

/// Mean and standard deviation of a few channels; `None` if there are too many.
fn inline(mean: &[f32], std: &[f32]) -> Option<InlineMeanStd> {
    let filled = |values: &[f32]| {
        let mut all = [1.0; INLINE_CHANNELS];
        all.get_mut(..values.len())?.copy_from_slice(values);
        Some(all)
    };
    Some(InlineMeanStd { mean: filled(mean)?, std: filled(std)? })
}
