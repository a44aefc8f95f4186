//! A convolution as a cuDNN operation graph: one operation on three tensors, and those that are fused with it.
use super::api::Api;
use super::descriptor::{Child, Descriptor, HandleValue, Kind, Name};
use super::problem::{ConvKind, ConvProblem, data_type};
use crate::cuda::library::LibraryError;
use cudarc::cudnn::sys::{cudnnConvolutionMode_t as Mode, cudnnDataType_t as DataType};
use cudarc::cudnn::sys::{cudnnGenStatsMode_t as Statistics, cudnnPointwiseMode_t as Pointwise};

/// The tensors' identities in a graph, and in the variant pack that runs its plan.
pub(super) const IMAGE: i64 = 1;
/// The weight, or its gradient.
pub(super) const WEIGHT: i64 = 2;
/// The output, or its gradient.
pub(super) const OUTPUT: i64 = 3;

/// The scale of a normalised image's channels.
pub(super) const SCALE: i64 = 4;
/// Their shift.
pub(super) const SHIFT: i64 = 5;
/// The sums of the output's channels.
pub(super) const SUM: i64 = 6;
/// The sums of their squares.
pub(super) const SQUARES: i64 = 7;

/// Describes `problem`; a handle is given where there is a device.
pub(super) fn describe(
    api: &'static Api,
    problem: &ConvProblem,
    handle: Option<HandleValue>,
) -> Result<Descriptor, LibraryError> {
    let operations = operations(api, problem)?;
    let operations: Vec<Child> = operations.iter().map(Descriptor::raw).collect();
    let mut graph = Descriptor::new(api, Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
        .set(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &operations)?;
    if let Some(handle) = handle {
        graph = graph.set(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, &[handle])?;
    }
    graph.finish()
}

/// The convolution, what normalises its image before it, and what sums its output up after it.
fn operations(api: &'static Api, problem: &ConvProblem) -> Result<Vec<Descriptor>, LibraryError> {
    let s = &problem.shape;
    let (c_in, c_out, group_in) = (s.c_in as i64, s.c_out as i64, s.group_in() as i64);
    let (n, h, w, out_h, out_w) = (s.n as i64, s.h as i64, s.w as i64, s.out_h() as i64, s.out_w() as i64);
    let stored = problem.data_type()?;
    let tensor = |id, data_type, dims| tensor(api, problem, id, data_type, dims)?.finish();
    let image = tensor(IMAGE, stored, [n, c_in, h, w])?;
    let weight = tensor(WEIGHT, stored, [c_out, group_in, s.kernel[0] as i64, s.kernel[1] as i64])?;
    let output = tensor(OUTPUT, stored, [n, c_out, out_h, out_w])?;
    let names = Names::of(problem.kind);
    let mut operations = Vec::new();
    let image = if problem.fusion.normalize {
        let of_affine = data_type(ConvProblem::affine_dtype(problem.dtype))?;
        let [scale, shift] = [SCALE, SHIFT].map(|id| tensor(id, of_affine, [1, c_in, 1, 1]));
        let steps =
            [(Pointwise::CUDNN_POINTWISE_MUL, Some(scale?)), (Pointwise::CUDNN_POINTWISE_ADD, Some(shift?))];
        let mut from = image;
        for (at, (mode, operand)) in
            steps.into_iter().chain([(Pointwise::CUDNN_POINTWISE_RELU_FWD, None)]).enumerate()
        {
            let to =
                self::tensor(api, problem, BETWEEN + at as i64, problem.between_type()?, [n, c_in, h, w])?
                    .set(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, &[true])?
                    .finish()?;
            operations.push(pointwise(api, mode, &from, operand.as_ref(), &to)?);
            from = to;
        }
        from
    } else {
        image
    };
    operations.push(
        Descriptor::new(api, names.operation)?
            .set(names.image, &[image.raw()])?
            .set(names.weight, &[weight.raw()])?
            .set(names.output, &[output.raw()])?
            .set(names.convolution, &[convolution(api, problem)?.raw()])?
            .set(names.alpha, &[1.0f32])?
            .set(names.beta, &[0.0f32])?
            .finish()?,
    );
    if problem.fusion.statistics {
        let vector = |id| tensor(id, DataType::CUDNN_DATA_FLOAT, [1, c_out, 1, 1]);
        operations.push(
            Descriptor::new(api, Kind::CUDNN_BACKEND_OPERATION_GEN_STATS_DESCRIPTOR)?
                .set(Name::CUDNN_ATTR_OPERATION_GENSTATS_MODE, &[Statistics::CUDNN_GENSTATS_SUM_SQSUM])?
                .set(Name::CUDNN_ATTR_OPERATION_GENSTATS_MATH_PREC, &[DataType::CUDNN_DATA_FLOAT])?
                .set(Name::CUDNN_ATTR_OPERATION_GENSTATS_XDESC, &[output.raw()])?
                .set(Name::CUDNN_ATTR_OPERATION_GENSTATS_SUMDESC, &[vector(SUM)?.raw()])?
                .set(Name::CUDNN_ATTR_OPERATION_GENSTATS_SQSUMDESC, &[vector(SQUARES)?.raw()])?
                .finish()?,
        );
    }
    Ok(operations)
}

/// From here on count the tensors that exist only between operations.
const BETWEEN: i64 = 8;

/// `to = from (mode) operand`, in f32.
fn pointwise(
    api: &'static Api,
    mode: Pointwise,
    from: &Descriptor,
    operand: Option<&Descriptor>,
    to: &Descriptor,
) -> Result<Descriptor, LibraryError> {
    let function = Descriptor::new(api, Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?
        .set(Name::CUDNN_ATTR_POINTWISE_MODE, &[mode])?
        .set(Name::CUDNN_ATTR_POINTWISE_MATH_PREC, &[DataType::CUDNN_DATA_FLOAT])?
        .finish()?;
    let mut operation = Descriptor::new(api, Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?
        .set(Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &[function.raw()])?
        .set(Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &[from.raw()])?
        .set(Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &[to.raw()])?;
    if let Some(operand) = operand {
        operation = operation.set(Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, &[operand.raw()])?;
    }
    operation.finish()
}

/// A tensor whose dimensions are given as cuDNN wants them (n, c, h, w) and whose strides say channels-last.
fn tensor(
    api: &'static Api,
    problem: &ConvProblem,
    id: i64,
    data_type: DataType,
    [n, c, h, w]: [i64; 4],
) -> Result<Descriptor, LibraryError> {
    Descriptor::new(api, Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, &[data_type])?
        .set(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &[n, c, h, w])?
        .set(Name::CUDNN_ATTR_TENSOR_STRIDES, &[h * w * c, 1, w * c, c])?
        .set(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[id])?
        .set(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[problem.alignment as i64])
}

/// The geometry. Groups are no attribute: cuDNN divides the image's channels by the weight's.
fn convolution(api: &'static Api, problem: &ConvProblem) -> Result<Descriptor, LibraryError> {
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
