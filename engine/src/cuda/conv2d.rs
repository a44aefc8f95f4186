//! Convolution: our kernels for depthwise ones, cuDNN for all others, and our implicit GEMM as the fallback for shapes that cuDNN does
//! not support. f32, f16 and bf16.
use super::cudnn::{ChannelAffine, ChannelSums, ConvEngineOptions};
use super::{DeviceSlice, Gpu, LibraryError, Result, depthwise, implicit_gemm};
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
    let options = options(gpu);
    let result = gpu.bind().map(|_access| {
        let cudnn = gpu.cudnn()?;
        // SAFETY: the slices are of the shapes and dtype that the operation has checked, and in use until the stream is done.
        gpu.with_workspace(|workspace| unsafe {
            cudnn.forward(s, x.dtype, options, x.pointer, weight.pointer, y.pointer, workspace)
        })
    })?;
    or_fallback(result, || implicit_gemm::forward(gpu, s, x, weight, None, y))
}

/// [`forward`] fused with its neighbours: with `affine` (scale and shift per channel of x) it convolves `max(x * scale + shift, 0)`; with
/// `sums`, `[2, c_out]` f32, it also writes each output channel's sum and sum of squares. Returns false, with the outputs undefined, if
/// cuDNN has no kernel for the fusion.
pub(crate) fn forward_fused(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    (x, affine): (DeviceSlice, Option<[DeviceSlice; 2]>),
    weight: DeviceSlice,
    (y, sums): (DeviceSlice, Option<DeviceSlice>),
) -> Result<bool> {
    if !supports_fusion(s, x.dtype) {
        return Ok(false);
    }
    let options = options(gpu);
    let affine = affine.map(|[scale, shift]| ChannelAffine { scale: scale.pointer, shift: shift.pointer });
    let sums = sums.map(|sums| {
        let squares = sums.pointer + (s.c_out * size_of::<f32>()) as u64;
        ChannelSums { sum: sums.pointer, squares }
    });
    is_supported(gpu.bind().map(|_access| {
        let cudnn = gpu.cudnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace(|workspace| unsafe {
            let (x_and, y_and) = ((x.pointer, affine), (y.pointer, sums));
            cudnn.forward_fused(s, x.dtype, options, x_and, weight.pointer, y_and, workspace)
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
    let options = options(gpu);
    let result = gpu.bind().map(|_access| {
        let cudnn = gpu.cudnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace(|workspace| unsafe {
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
    let options = options(gpu);
    is_supported(gpu.bind().map(|_access| {
        let cudnn = gpu.cudnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace(|workspace| unsafe {
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
    let options = options(gpu);
    let result = gpu.bind().map(|_access| {
        let cudnn = gpu.cudnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace(|workspace| unsafe {
            cudnn.weight_gradient(s, x.dtype, options, x.pointer, dy.pointer, dw.pointer, workspace)
        })
    })?;
    or_fallback(result, || implicit_gemm::weight_gradient(gpu, s, x, dy, dw))
}

/// [`weight_gradient`] for the input `max(x * scale + shift, 0)`. Returns false if cuDNN has no kernel for the fusion.
pub(crate) fn weight_gradient_fused(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    (x, [scale, shift]): (DeviceSlice, [DeviceSlice; 2]),
    dy: DeviceSlice,
    dw: DeviceSlice,
) -> Result<bool> {
    if !supports_fusion(s, x.dtype) {
        return Ok(false);
    }
    let options = options(gpu);
    let affine = ChannelAffine { scale: scale.pointer, shift: shift.pointer };
    is_supported(gpu.bind().map(|_access| {
        let cudnn = gpu.cudnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace(|workspace| unsafe {
            let x_and = (x.pointer, affine);
            cudnn.weight_gradient_fused(s, x.dtype, options, x_and, dy.pointer, dw.pointer, workspace)
        })
    })?)
}

/// Engine options: deterministic, no TF32, and the device's plan choice.
fn options(gpu: &Gpu) -> ConvEngineOptions {
    ConvEngineOptions { tf32: false, deterministic: true, choice: gpu.plan_choice() }
}

/// True if cuDNN's precompiled engines may support a fusion: 16-bit dtypes (fused engines do not guarantee strict f32), one group, and
/// channels in multiples of 8.
fn supports_fusion(s: &ConvShape, dtype: DType) -> bool {
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
