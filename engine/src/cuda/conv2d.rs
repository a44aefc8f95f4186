//! A convolution by whoever does it best: our own kernels for a depthwise one, cuDNN for the rest, and our plain kernel where cuDNN
//! has no engine.
use super::cudnn::{ChannelAffine, ChannelSums, ConvEngineOptions};
use super::{DeviceSlice, Gpu, LibraryError, Result, convolution, depthwise};
use crate::{ConvShape, DType};
use std::sync::Arc;

/// `y`, without a bias.
pub(crate) fn forward(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    x: DeviceSlice,
    weight: DeviceSlice,
    y: DeviceSlice,
) -> Result<()> {
    if depthwise::suits(s, x.dtype) {
        return depthwise::forward(gpu, s, x, weight, None, y);
    }
    let options = options(gpu);
    let by_library = gpu.bind().map(|_turn| {
        let dnn = gpu.dnn()?;
        // SAFETY: the slices are of the shapes and dtype that the operation has checked, and in use until the stream is done.
        gpu.with_workspace(|workspace| unsafe {
            dnn.forward(s, x.dtype, options, x.pointer, weight.pointer, y.pointer, workspace)
        })
    })?;
    else_own(by_library, || convolution::forward(gpu, s, x, weight, None, y))
}

/// [`forward`] that leaves each output channel's sum, and that of its squares, in `sums` `[2, c_out]` f32; false, and nothing of use
/// done, where cuDNN does not give them with the convolution. `affine`, a scale and a shift for each channel of x, makes it the
/// convolution of `max(x scale + shift, 0)`.
pub(crate) fn forward_fused(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    (x, affine): (DeviceSlice, Option<[DeviceSlice; 2]>),
    weight: DeviceSlice,
    (y, sums): (DeviceSlice, Option<DeviceSlice>),
) -> Result<bool> {
    if !may_fuse(s, x.dtype) {
        return Ok(false);
    }
    let options = options(gpu);
    let affine = affine.map(|[scale, shift]| ChannelAffine { scale: scale.pointer, shift: shift.pointer });
    let sums = sums.map(|sums| {
        let squares = sums.pointer + (s.c_out * size_of::<f32>()) as u64;
        ChannelSums { sum: sums.pointer, squares }
    });
    was_done(gpu.bind().map(|_turn| {
        let dnn = gpu.dnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace(|workspace| unsafe {
            let (x_and, y_and) = ((x.pointer, affine), (y.pointer, sums));
            dnn.forward_fused(s, x.dtype, options, x_and, weight.pointer, y_and, workspace)
        })
    })?)
}

/// The gradient of the input.
pub(crate) fn data_gradient(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    dy: DeviceSlice,
    weight: DeviceSlice,
    dx: DeviceSlice,
) -> Result<()> {
    if depthwise::suits(s, dy.dtype) {
        return depthwise::data_gradient(gpu, s, dy, weight, dx);
    }
    let options = options(gpu);
    let by_library = gpu.bind().map(|_turn| {
        let dnn = gpu.dnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace(|workspace| unsafe {
            dnn.data_gradient(s, dy.dtype, options, dy.pointer, weight.pointer, dx.pointer, workspace)
        })
    })?;
    else_own(by_library, || convolution::data_gradient(gpu, s, dy, weight, dx))
}

/// The gradient of the weight.
pub(crate) fn weight_gradient(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    x: DeviceSlice,
    dy: DeviceSlice,
    dw: DeviceSlice,
) -> Result<()> {
    if depthwise::suits(s, x.dtype) {
        return depthwise::weight_gradient(gpu, s, x, dy, dw);
    }
    let options = options(gpu);
    let by_library = gpu.bind().map(|_turn| {
        let dnn = gpu.dnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace(|workspace| unsafe {
            dnn.weight_gradient(s, x.dtype, options, x.pointer, dy.pointer, dw.pointer, workspace)
        })
    })?;
    else_own(by_library, || convolution::weight_gradient(gpu, s, x, dy, dw))
}

/// [`weight_gradient`] for the image `max(x scale + shift, 0)`; false where cuDNN has no one kernel for it.
pub(crate) fn weight_gradient_fused(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    (x, [scale, shift]): (DeviceSlice, [DeviceSlice; 2]),
    dy: DeviceSlice,
    dw: DeviceSlice,
) -> Result<bool> {
    if !may_fuse(s, x.dtype) {
        return Ok(false);
    }
    let options = options(gpu);
    let affine = ChannelAffine { scale: scale.pointer, shift: shift.pointer };
    was_done(gpu.bind().map(|_turn| {
        let dnn = gpu.dnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace(|workspace| unsafe {
            let x_and = (x.pointer, affine);
            dnn.weight_gradient_fused(s, x.dtype, options, x_and, dy.pointer, dw.pointer, workspace)
        })
    })?)
}

/// The same bits at each run, and f32 that is f32.
fn options(gpu: &Gpu) -> ConvEngineOptions {
    ConvEngineOptions { tf32: false, deterministic: true, choice: gpu.plan_choice() }
}

/// Whether cuDNN may fuse something with the convolution: what its precompiled engines want. Strict f32 it cannot promise.
fn may_fuse(s: &ConvShape, dtype: DType) -> bool {
    let whole = s.groups == 1 && s.c_in.is_multiple_of(8) && s.c_out.is_multiple_of(8);
    whole && dtype != DType::F32 && s.input_len() != 0 && s.output_len() != 0
}

/// True where the library did it, false where it has no engine.
fn was_done(by_library: std::result::Result<(), LibraryError>) -> Result<bool> {
    match by_library {
        Err(LibraryError::Unsupported { .. }) => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

/// What the library did; the plain kernel where it has no engine. That it is missing is an error: nobody wants its work done slowly
/// without being told.
fn else_own(
    by_library: std::result::Result<(), LibraryError>,
    own: impl FnOnce() -> Result<()>,
) -> Result<()> {
    match by_library {
        Err(LibraryError::Unsupported { .. }) => own(),
        other => Ok(other?),
    }
}
