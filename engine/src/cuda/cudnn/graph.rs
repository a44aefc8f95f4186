//! Convolution as a cuDNN operation graph: one operation on three tensors, and the operations fused with it.
use super::api::{CudnnApi, unsupported};
use super::descriptor::{AttributeName, Descriptor, DescriptorPointer, DescriptorType, HandleValue};
use super::problem::{ConvKind, ConvProblem};
use crate::DType;
use crate::cuda::LibraryError;
use cudarc::cudnn::sys::cudnnGenStatsMode_t as Statistics;
use cudarc::cudnn::sys::{cudnnConvolutionMode_t as Mode, cudnnDataType_t as DataType};

/// Id of the input, or its gradient. Ids identify tensors in a graph and in the variant pack that runs its plan.
pub(super) const INPUT: i64 = 1;
/// Id of the weight, or its gradient.
pub(super) const WEIGHT: i64 = 2;
/// Id of the output, or its gradient.
pub(super) const OUTPUT: i64 = 3;
/// Id of the sums of the output's channels.
pub(super) const SUM: i64 = 4;
/// Id of the sums of squares of the output's channels.
pub(super) const SQUARES: i64 = 5;

/// Builds the operation graph of `problem`, with a handle if there is a device.
pub(super) fn describe(
    api: &'static CudnnApi,
    problem: &ConvProblem,
    handle: Option<HandleValue>,
) -> Result<Descriptor, LibraryError> {
    let operations = operations(api, problem)?;
    let operations: Vec<DescriptorPointer> = operations.iter().map(Descriptor::raw).collect();
    let mut graph = Descriptor::new(api, DescriptorType::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?
        .set(AttributeName::CUDNN_ATTR_OPERATIONGRAPH_OPS, &operations)?;
    if let Some(handle) = handle {
        graph = graph.set(AttributeName::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, &[handle])?;
    }
    graph.finalize()
}

/// The convolution, followed by the statistics of its output if these are fused.
fn operations(api: &'static CudnnApi, problem: &ConvProblem) -> Result<Vec<Descriptor>, LibraryError> {
    let s = &problem.shape;
    let (c_in, c_out, group_in) = (s.c_in as i64, s.c_out as i64, s.group_in() as i64);
    let (n, h, w, out_h, out_w) = (s.n as i64, s.h as i64, s.w as i64, s.out_h() as i64, s.out_w() as i64);
    let stored = data_type(problem)?;
    let tensor = |id, data_type, dims| tensor(api, problem, id, data_type, dims)?.finalize();
    let input = tensor(INPUT, stored, [n, c_in, h, w])?;
    let weight = tensor(WEIGHT, stored, [c_out, group_in, s.kernel[0] as i64, s.kernel[1] as i64])?;
    let output = tensor(OUTPUT, stored, [n, c_out, out_h, out_w])?;
    let attributes = OperationAttributes::of(problem.kind);
    let mut operations = vec![
        Descriptor::new(api, attributes.operation)?
            .set(attributes.input, &[input.raw()])?
            .set(attributes.weight, &[weight.raw()])?
            .set(attributes.output, &[output.raw()])?
            .set(attributes.convolution, &[convolution(api, problem)?.raw()])?
            .set(attributes.alpha, &[1.0f32])?
            .set(attributes.beta, &[if problem.fusion.accumulate { 1.0f32 } else { 0.0 }])?
            .finalize()?,
    ];
    if problem.fusion.statistics {
        let vector = |id| tensor(id, DataType::CUDNN_DATA_FLOAT, [1, c_out, 1, 1]);
        operations.push(
            Descriptor::new(api, DescriptorType::CUDNN_BACKEND_OPERATION_GEN_STATS_DESCRIPTOR)?
                .set(
                    AttributeName::CUDNN_ATTR_OPERATION_GENSTATS_MODE,
                    &[Statistics::CUDNN_GENSTATS_SUM_SQSUM],
                )?
                .set(AttributeName::CUDNN_ATTR_OPERATION_GENSTATS_MATH_PREC, &[DataType::CUDNN_DATA_FLOAT])?
                .set(AttributeName::CUDNN_ATTR_OPERATION_GENSTATS_XDESC, &[output.raw()])?
                .set(AttributeName::CUDNN_ATTR_OPERATION_GENSTATS_SUMDESC, &[vector(SUM)?.raw()])?
                .set(AttributeName::CUDNN_ATTR_OPERATION_GENSTATS_SQSUMDESC, &[vector(SQUARES)?.raw()])?
                .finalize()?,
        );
    }
    Ok(operations)
}

/// Channels-last tensor, with dimensions in cuDNN's order (n, c, h, w).
fn tensor(
    api: &'static CudnnApi,
    problem: &ConvProblem,
    id: i64,
    data_type: DataType,
    [n, c, h, w]: [i64; 4],
) -> Result<Descriptor, LibraryError> {
    Descriptor::new(api, DescriptorType::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
        .set(AttributeName::CUDNN_ATTR_TENSOR_DATA_TYPE, &[data_type])?
        .set(AttributeName::CUDNN_ATTR_TENSOR_DIMENSIONS, &[n, c, h, w])?
        .set(AttributeName::CUDNN_ATTR_TENSOR_STRIDES, &[h * w * c, 1, w * c, c])?
        .set(AttributeName::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[id])?
        .set(AttributeName::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[problem.alignment as i64])
}

/// Convolution descriptor. Groups are not an attribute: cuDNN divides the input's channels by the weight's.
fn convolution(api: &'static CudnnApi, problem: &ConvProblem) -> Result<Descriptor, LibraryError> {
    let pair = |[v, h]: [usize; 2]| [v as i64, h as i64];
    let s = &problem.shape;
    Descriptor::new(api, DescriptorType::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
        .set(AttributeName::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, &[DataType::CUDNN_DATA_FLOAT])?
        .set(AttributeName::CUDNN_ATTR_CONVOLUTION_CONV_MODE, &[Mode::CUDNN_CROSS_CORRELATION])?
        .set(AttributeName::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2i64])?
        .set(AttributeName::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &pair(s.padding))?
        .set(AttributeName::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &pair(s.padding))?
        .set(AttributeName::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &pair(s.stride))?
        .set(AttributeName::CUDNN_ATTR_CONVOLUTION_DILATIONS, &pair(s.dilation))?
        .finalize()
}

/// Attribute names of one kind of operation.
struct OperationAttributes {
    operation: DescriptorType,
    input: AttributeName,
    weight: AttributeName,
    output: AttributeName,
    convolution: AttributeName,
    alpha: AttributeName,
    beta: AttributeName,
}

impl OperationAttributes {
    fn of(kind: ConvKind) -> OperationAttributes {
        match kind {
            ConvKind::Forward => OperationAttributes {
                operation: DescriptorType::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                input: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                weight: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                output: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                convolution: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                alpha: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                beta: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
            },
            ConvKind::DataGradient => OperationAttributes {
                operation: DescriptorType::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                input: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                weight: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                output: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                convolution: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                alpha: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                beta: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
            },
            ConvKind::WeightGradient => OperationAttributes {
                operation: DescriptorType::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                input: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                weight: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                output: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                convolution: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                alpha: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                beta: AttributeName::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
            },
        }
    }
}

/// cuDNN's data type of a problem's tensors.
fn data_type(problem: &ConvProblem) -> Result<DataType, LibraryError> {
    match problem.dtype {
        DType::F32 => Ok(DataType::CUDNN_DATA_FLOAT),
        DType::F16 => Ok(DataType::CUDNN_DATA_HALF),
        DType::BF16 => Ok(DataType::CUDNN_DATA_BFLOAT16),
        _ => Err(unsupported(problem)),
    }
}
