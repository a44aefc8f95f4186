//! Convolution: our kernels for depthwise ones, cuDNN for all others, and our implicit GEMM as the fallback for shapes that cuDNN does
//! not support. f32, f16 and bf16.
pub(crate) mod depthwise;
pub(crate) mod implicit_gemm;
pub(crate) mod pointwise_data_gradient;

use crate::cuda::cudnn::{ChannelSums, ConvEngineOptions, ConvPlanChoice, FusionAlternative};
use crate::cuda::{DeviceSlice, Gpu, LibraryError, Result};
use crate::ops::batch_norm::cuda::from_sums::{self, SummedNorm};
use crate::ops::batch_norm::cuda::{self as batch_norm, BatchNormParameters, SAVED_ROWS};
use crate::{ConvShape, DType};
use std::sync::Arc;

/// `y = conv2d(x, weight)`, without a bias.
pub(crate) fn forward(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    x: DeviceSlice,
    weight: DeviceSlice,
    y: DeviceSlice,
) -> Result<()> {
    if depthwise::supports(s, x.dtype) {
        return depthwise::forward(gpu, s, x, weight, None, y);
    }
    let options = gpu.conv_options();
    let result = gpu.bind().map(|_access| {
        let cudnn = gpu.cudnn()?;
        // SAFETY: the slices are of the shapes and dtype that the operation has checked, and in use until the stream is done.
        gpu.with_workspace("cudnn convolution forward", |workspace| unsafe {
            cudnn.forward(s, x.dtype, options, x.pointer, weight.pointer, y.pointer, workspace)
        })
    })?;
    or_fallback(result, || implicit_gemm::forward(gpu, s, x, weight, None, y))
}

/// [`forward`] that also writes the sum and the sum of squares of each output channel to `sums`, `[2, c_out]` f32. Returns false, with the
/// outputs undefined, if cuDNN has no kernel for it, or if timing found that slower than a convolution and a pass over its output for the
/// statistics.
pub(crate) fn forward_with_sums(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    x: DeviceSlice,
    weight: DeviceSlice,
    y: DeviceSlice,
    sums: DeviceSlice,
) -> Result<bool> {
    if !supports_sums(s, x.dtype) {
        return Ok(false);
    }
    let (c, parameters) = (s.c_out, BatchNormParameters::default());
    let mut rest = || {
        let saved = gpu.empty(SAVED_ROWS * c, DType::F32)?;
        let saved = saved.as_slice(DType::F32);
        Ok(from_sums::statistics(gpu, SummedNorm { y, sums, parameters, momentum: None, saved }, c)?)
    };
    let mut separate = || {
        let saved = gpu.empty(SAVED_ROWS * c, DType::F32)?;
        forward(gpu, s, x, weight, y)?;
        Ok(batch_norm::statistics(gpu, y, c, &parameters, None, saved.as_slice(DType::F32))?)
    };
    let alternative = FusionAlternative { rest: &mut rest, separate: &mut separate };
    fused_with_sums(gpu, s, gpu.conv_options(), [x, weight, y, sums], Some(alternative))
}

/// [`forward_with_sums`] by the heuristics' plan, without timing.
pub(crate) fn plan_with_sums(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    x: DeviceSlice,
    weight: DeviceSlice,
    y: DeviceSlice,
    sums: DeviceSlice,
) -> Result<bool> {
    let options = ConvEngineOptions { choice: ConvPlanChoice::Stored, ..gpu.conv_options() };
    fused_with_sums(gpu, s, options, [x, weight, y, sums], None)
}

fn fused_with_sums(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    options: ConvEngineOptions,
    [x, weight, y, sums]: [DeviceSlice; 4],
    alternative: Option<FusionAlternative>,
) -> Result<bool> {
    let squares = sums.pointer + (s.c_out * size_of::<f32>()) as u64;
    let channel_sums = ChannelSums { sum: sums.pointer, squares, channels: s.c_out };
    is_supported(gpu.bind().map(|_access| {
        let cudnn = gpu.cudnn()?;
        let [px, pw, py] = [x, weight, y].map(|slice| slice.pointer);
        // SAFETY: as in `forward`.
        gpu.with_workspace("cudnn convolution forward with statistics", |workspace| unsafe {
            cudnn.forward_with_sums(s, x.dtype, options, px, pw, (py, channel_sums), alternative, workspace)
        })
    })?)
}

/// Gradient of the input.
pub(crate) fn data_gradient(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    dy: DeviceSlice,
    weight: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    if depthwise::supports(s, dy.dtype) {
        return depthwise::data_gradient(gpu, s, dy, weight, dx);
    }
    let options = gpu.conv_options();
    let result = gpu.bind().map(|_access| {
        let cudnn = gpu.cudnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace("cudnn convolution data gradient", |workspace| unsafe {
            cudnn.data_gradient(s, dy.dtype, options, dy.pointer, weight.pointer, dx.pointer, workspace)
        })
    })?;
    or_fallback(result, || implicit_gemm::data_gradient(gpu, s, dy, weight, dx))
}

/// Adds the gradient of the input to `dx`. Returns false, without effect, if cuDNN has no kernel for it.
pub(crate) fn add_data_gradient(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    dy: DeviceSlice,
    weight: DeviceSlice,
    dx: DeviceSlice,
) -> Result<bool> {
    if depthwise::supports(s, dy.dtype) {
        return Ok(false);
    }
    let options = gpu.conv_options();
    is_supported(gpu.bind().map(|_access| {
        let cudnn = gpu.cudnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace("cudnn convolution data gradient, added", |workspace| unsafe {
            cudnn.add_data_gradient(s, dy.dtype, options, dy.pointer, weight.pointer, dx.pointer, workspace)
        })
    })?)
}

/// Gradient of the weight.
pub(crate) fn weight_gradient(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    x: DeviceSlice,
    dy: DeviceSlice,
    dw: DeviceSlice,
) -> Result<()> {
    if depthwise::supports(s, x.dtype) {
        return depthwise::weight_gradient(gpu, s, x, dy, dw);
    }
    let options = gpu.conv_options();
    let result = gpu.bind().map(|_access| {
        let cudnn = gpu.cudnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace("cudnn convolution weight gradient", |workspace| unsafe {
            cudnn.weight_gradient(s, x.dtype, options, x.pointer, dy.pointer, dw.pointer, workspace)
        })
    })?;
    or_fallback(result, || implicit_gemm::weight_gradient(gpu, s, x, dy, dw))
}

/// True if cuDNN's engines may support channel sums: 16-bit dtypes (fused engines do not guarantee strict f32), one group, and channels in
/// multiples of 8.
fn supports_sums(s: &ConvShape, dtype: DType) -> bool {
    let whole = s.groups == 1 && s.c_in.is_multiple_of(8) && s.c_out.is_multiple_of(8);
    whole && dtype != DType::F32 && s.input_len() != 0 && s.output_len() != 0
}

/// False for [`LibraryError::Unsupported`]; other errors are returned.
fn is_supported(result: std::result::Result<(), LibraryError>) -> Result<bool> {
    match result {
        Err(LibraryError::Unsupported { .. }) => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// Runs `fallback` for [`LibraryError::Unsupported`]. A missing library is an error, so that nothing silently runs slowly.
fn or_fallback(
    result: std::result::Result<(), LibraryError>,
    fallback: impl FnOnce() -> Result<()>,
) -> Result<()> {
    match result {
        Err(LibraryError::Unsupported { .. }) => fallback(),
        other => Ok(other?),
    }
}
