//! A convolution by whoever does it best: our own kernels for a depthwise one, cuDNN for the rest, and our plain kernel where cuDNN
//! has no engine.
use super::dnn::ConvOptions;
use super::{Gpu, LibraryError, Result, Slice, convolution, depthwise};
use crate::ConvShape;
use std::sync::Arc;

/// `y`, without a bias.
pub(crate) fn forward(gpu: &Arc<Gpu>, s: &ConvShape, x: Slice, weight: Slice, y: Slice) -> Result<()> {
    if depthwise::suits(s, x.dtype) {
        return depthwise::forward(gpu, s, x, weight, None, y);
    }
    let by_library = gpu.bind().map(|()| {
        let dnn = gpu.dnn()?;
        // SAFETY: the slices are of the shapes and dtype that the operation has checked, and in use until the stream is done.
        gpu.with_workspace(|workspace| unsafe {
            dnn.forward(s, x.dtype, OPTIONS, x.pointer, weight.pointer, y.pointer, workspace)
        })
    })?;
    else_own(by_library, || convolution::forward(gpu, s, x, weight, None, y))
}

/// The gradient of the input.
pub(crate) fn data_gradient(
    gpu: &Arc<Gpu>,
    s: &ConvShape,
    dy: Slice,
    weight: Slice,
    dx: Slice,
) -> Result<()> {
    if depthwise::suits(s, dy.dtype) {
        return depthwise::data_gradient(gpu, s, dy, weight, dx);
    }
    let by_library = gpu.bind().map(|()| {
        let dnn = gpu.dnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace(|workspace| unsafe {
            dnn.data_gradient(s, dy.dtype, OPTIONS, dy.pointer, weight.pointer, dx.pointer, workspace)
        })
    })?;
    else_own(by_library, || convolution::data_gradient(gpu, s, dy, weight, dx))
}

/// The gradient of the weight.
pub(crate) fn weight_gradient(gpu: &Arc<Gpu>, s: &ConvShape, x: Slice, dy: Slice, dw: Slice) -> Result<()> {
    if depthwise::suits(s, x.dtype) {
        return depthwise::weight_gradient(gpu, s, x, dy, dw);
    }
    let by_library = gpu.bind().map(|()| {
        let dnn = gpu.dnn()?;
        // SAFETY: as in `forward`.
        gpu.with_workspace(|workspace| unsafe {
            dnn.weight_gradient(s, x.dtype, OPTIONS, x.pointer, dy.pointer, dw.pointer, workspace)
        })
    })?;
    else_own(by_library, || convolution::weight_gradient(gpu, s, x, dy, dw))
}

/// The same bits at each run, and f32 that is f32.
const OPTIONS: ConvOptions =
    ConvOptions { tf32: false, deterministic: true, choice: super::dnn::PlanChoice::Heuristic };

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
