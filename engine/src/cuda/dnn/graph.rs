//! A convolution as a cuDNN operation graph: one operation on three tensors.
use super::api::Api;
use super::descriptor::{Descriptor, HandleValue, Kind, Name};
use super::problem::{ConvKind, Problem};
use crate::cuda::library::LibraryError;
use cudarc::cudnn::sys::{cudnnConvolutionMode_t as Mode, cudnnDataType_t as DataType};

/// The tensors' identities in a graph, and in the variant pack that runs its plan.
pub(super) const IMAGE: i64 = 1;
/// The weight, or its gradient.
pub(super) const WEIGHT: i64 = 2;
/// The output, or its gradient.
pub(super) const OUTPUT: i64 = 3;

/// Describes `problem`; a handle is given where there is a device.
pub(super) fn describe(
    api: &'static Api,
    problem: &Problem,
    handle: Option<HandleValue>,
) -> Result<Descriptor, LibraryError> {
    let s = &problem.shape;
    let (c_in, c_out, group_in) = (s.c_in as i64, s.c_out as i64, s.group_in() as i64);
    let (n, h, w, out_h, out_w) = (s.n as i64, s.h as i64, s.w as i64, s.out_h() as i64, s.out_w() as i64);
    let tensor = |id, dims| tensor(api, problem, id, dims);
    let image = tensor(IMAGE, [n, c_in, h, w])?;
    let weight = tensor(WEIGHT, [c_out, group_in, s.kernel[0] as i64, s.kernel[1] as i64])?;
    let output = tensor(OUTPUT, [n, c_out, out_h, out_w])?;
    let names = Names::of(problem.kind);
    let operation = Descriptor::new(api, names.operation)?
        .set(names.image, &[image.raw()])?
        .set(names.weight, &[weight.raw()])?
        .set(names.output, &[output.raw()])?
        .set(names.convolution, &[convolution(api, problem)?.raw()])?
        .set(names.alpha, &[1.0f32])?
        .set(names.beta, &[0.0f32])?
        .finish()?;
    let mut graph = Descriptor::new(api, Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
        .set(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &[operation.raw()])?;
    if let Some(handle) = handle {
        graph = graph.set(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, &[handle])?;
    }
    graph.finish()
}

/// A tensor whose dimensions are given as cuDNN wants them (n, c, h, w) and whose strides say channels-last.
fn tensor(
    api: &'static Api,
    problem: &Problem,
    id: i64,
    [n, c, h, w]: [i64; 4],
) -> Result<Descriptor, LibraryError> {
    Descriptor::new(api, Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, &[problem.data_type()?])?
        .set(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &[n, c, h, w])?
        .set(Name::CUDNN_ATTR_TENSOR_STRIDES, &[h * w * c, 1, w * c, c])?
        .set(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[id])?
        .set(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[problem.alignment as i64])?
        .finish()
}

/// The geometry. Groups are no attribute: cuDNN divides the image's channels by the weight's.
fn convolution(api: &'static Api, problem: &Problem) -> Result<Descriptor, LibraryError> {
    let pair = |[v, h]: [usize; 2]| [v as i64, h as i64];
    let s = &problem.shape;
    Descriptor::new(api, Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
        .set(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, &[DataType::CUDNN_DATA_FLOAT])?
        .set(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, &[Mode::CUDNN_CROSS_CORRELATION])?
        .set(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2i64])?
        .set(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &pair(s.padding))?
        .set(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &pair(s.padding))?
        .set(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &pair(s.stride))?
        .set(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &pair(s.dilation))?
        .finish()
}

/// The names of one kind of operation.
struct Names {
    operation: Kind,
    image: Name,
    weight: Name,
    output: Name,
    convolution: Name,
    alpha: Name,
    beta: Name,
}

impl Names {
    fn of(kind: ConvKind) -> Names {
        match kind {
            ConvKind::Forward => Names {
                operation: Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                image: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                weight: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                output: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                convolution: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                alpha: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                beta: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
            },
            ConvKind::DataGradient => Names {
                operation: Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                image: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                weight: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                output: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                convolution: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                alpha: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                beta: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
            },
            ConvKind::WeightGradient => Names {
                operation: Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                image: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                weight: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                output: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                convolution: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                alpha: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                beta: Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
            },
        }
    }
}
