//! Images of bytes as numbers (`kernels/cu/normalize.cu`).
use super::walk::{int, packs};
use super::{Arg, DeviceSlice, Gpu, Grid, Result, args};
use crate::DType;
use std::sync::Arc;

/// `y = (x / white - mean) / std` by channel, the last axis, with a number a channel. Of up to four channels these travel with the launch,
/// which can be recorded; more are uploaded.
pub(crate) fn forward(
    gpu: &Arc<Gpu>,
    x: DeviceSlice,
    white: f32,
    [mean, std]: [&[f32]; 2],
    y: DeviceSlice,
) -> Result<()> {
    if x.len == 0 {
        return Ok(());
    }
    let (channels, grid) = (int(mean.len())?, Grid::stride(packs(y)));
    if let Some(few) = Few::new(mean, std) {
        let arguments = args![x, y, x.len, channels, white, Arg::of(&few)];
        return gpu.launch(FAMILY, &format!("normalize_{}", y.dtype), grid, arguments);
    }
    let [of_mean, of_std] = [gpu.empty(mean.len(), DType::F32)?, gpu.empty(std.len(), DType::F32)?];
    let [to_mean, to_std] = [of_mean.as_slice(DType::F32), of_std.as_slice(DType::F32)];
    gpu.upload(bytemuck::cast_slice(mean), to_mean)?;
    gpu.upload(bytemuck::cast_slice(std), to_std)?;
    let arguments = args![x, y, x.len, channels, white, to_mean, to_std];
    gpu.launch(FAMILY, &format!("normalize_many_{}", y.dtype), grid, arguments)
}

const FAMILY: &str = "normalize";

/// The twin of `struct Few` in the kernels.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::NoUninit)]
struct Few {
    mean: [f32; 4],
    std: [f32; 4],
}

impl Few {
    fn new(mean: &[f32], std: &[f32]) -> Option<Few> {
        let four = |values: &[f32]| {
            let mut all = [1.0; 4];
            all.get_mut(..values.len())?.copy_from_slice(values);
            Some(all)
        };
        Some(Few { mean: four(mean)?, std: four(std)? })
    }
}
