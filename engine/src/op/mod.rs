//! Operations from outside of the crate, and the seam of all operations.
//!
//! A [`CustomOp`] is an operation of one's own, by [`Kernel`]s or by operations. Inside of the crate an `Op` declares its results, its kernels and
//! its derivative, and `apply` does the rest, the same for every operation.
//!
//! The gradient of an operation is an operation: `Derivative::backward` calls `apply` for the operation that computes it, which has a derivative of
//! its own. An operation that only computes gradients may state the same function as a composition of other operations
//! (`composed_backward`), which gives it derivatives of any order.
mod apply;
mod cpu_call;
mod custom;
mod formula;
mod kernel;
mod launch;

pub(crate) use apply::{
    apply, apply_all, composed_backward, compute, compute_all, gradients, no_second_derivative,
    with_derivative,
};
pub(crate) use cpu_call::{CpuCall, for_any, for_real, for_stored, match_float, match_half};
pub use custom::{Composition, CustomOp, SavedTensors};
pub(crate) use formula::Formula;
pub use kernel::{Geometry, Kernel, KernelBytes, LaunchExtents};
pub(crate) use launch::{check_device, launch};

use crate::cuda::{self, DeviceSlice, Gpu};
use crate::{DType, Error, IntoShape, Shape, Tensor};
use std::sync::Arc;

/// An operation: its results, and a kernel for each device.
pub(crate) trait Op: Send + Sync {
    /// Name and operands.
    fn spec(&self) -> Spec;

    /// Shape and dtype of each result, or why the operands do not fit. The first result is the one that gradients flow to; others are indices,
    /// statistics and the like.
    fn results(&self, x: &[&Tensor]) -> Infos;

    /// Computes the results on the CPU. They have arbitrary content before.
    fn cpu(&self, call: &CpuCall) -> crate::Result<()>;

    /// Queues the kernels that compute the results `y`.
    fn cuda(&self, gpu: &Arc<Gpu>, x: &[DeviceSlice], y: &[DeviceSlice]) -> cuda::Result<()>;
}

/// Name and operands of an operation. By default all operands have one dtype: f32, f16, bf16; f64 on the CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    name: &'static str,
    operands: &'static [&'static str],
    dtypes: DTypes,
    stores_half: bool,
}

impl Spec {
    /// An operation's name, and the names of its operands in errors. Further operands have the last name.
    pub(crate) fn new(name: &'static str, operands: &'static [&'static str]) -> Spec {
        Spec { name, operands, dtypes: DTypes::Float, stores_half: false }
    }

    /// Only the first operand is checked; [`Op::results`] checks the dtypes of the others.
    pub(crate) fn mixed_dtypes(self) -> Spec {
        Spec { dtypes: DTypes::FirstFloat, ..self }
    }

    /// Operands of one dtype, of any kind.
    pub(crate) fn any_dtype(self) -> Spec {
        Spec { dtypes: DTypes::Any, ..self }
    }

    /// Operands of dtypes that [`Op::results`] checks.
    pub(crate) fn dtypes_of_results(self) -> Spec {
        Spec { dtypes: DTypes::OfResults, ..self }
    }

    /// The CPU kernel reads and writes f16 and bf16. Otherwise it receives f16 and bf16 operands as f32, and its results are rounded.
    pub(crate) fn stores_half_on_cpu(self) -> Spec {
        Spec { stores_half: true, ..self }
    }
}

/// Dtypes that an operation accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DTypes {
    /// One float dtype for all operands.
    Float,
    /// A float dtype for the first operand.
    FirstFloat,
    /// One dtype for all operands, of any kind.
    Any,
    /// Those that [`Op::results`] accepts.
    OfResults,
}

/// The results that an operation declares.
pub(crate) type Infos = Result<Vec<TensorInfo>, Mismatch>;

/// Shape and dtype of a result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorInfo {
    pub(crate) shape: Shape,
    pub(crate) dtype: DType,
}

impl TensorInfo {
    pub(crate) fn new(shape: impl IntoShape, dtype: DType) -> Result<TensorInfo, Mismatch> {
        Ok(TensorInfo { shape: shape.into_shape().map_err(Mismatch::Error)?, dtype })
    }

    /// Shape and dtype of a tensor.
    pub(crate) fn of(t: &Tensor) -> TensorInfo {
        TensorInfo { shape: *t.shape(), dtype: t.dtype() }
    }

    /// The same dtype with another shape.
    pub(crate) fn with_shape(self, shape: Shape) -> TensorInfo {
        TensorInfo { shape, ..self }
    }
}

/// Reason why operands do not fit an operation.
#[derive(Debug)]
pub(crate) enum Mismatch {
    /// The shapes do not fit; what would be accepted.
    Shape(String),
    /// A dtype is not supported; the accepted dtypes.
    DType(&'static str),
    /// The shape of a result does not fit.
    Error(Error),
}

impl Mismatch {
    /// As the error of an operation.
    pub(crate) fn error(self, op: &'static str, operands: &[(&'static str, &Tensor)]) -> Error {
        match self {
            Mismatch::Shape(why) => Error::shape(op, operands, why),
            Mismatch::DType(accepted) => Error::dtype(op, operands, accepted),
            Mismatch::Error(error) => error,
        }
    }
}

impl From<Error> for Mismatch {
    fn from(error: Error) -> Mismatch {
        Mismatch::Error(error)
    }
}

impl From<String> for Mismatch {
    fn from(why: String) -> Mismatch {
        Mismatch::Shape(why)
    }
}

impl From<&str> for Mismatch {
    fn from(why: &str) -> Mismatch {
        Mismatch::Shape(why.into())
    }
}

/// Errors unless parameters have the dtype of x or, if it is f16 or bf16, are all f32.
pub(crate) fn check_parameters(x: &Tensor, parameters: &[&Tensor]) -> Result<(), Mismatch> {
    let all = |dtype: DType| parameters.iter().all(|t| t.dtype() == dtype);
    if all(x.dtype()) || (x.dtype().is_half() && all(DType::F32)) {
        return Ok(());
    }
    Err(Mismatch::DType("operands of one dtype; with f16 and bf16, parameters may all be f32"))
}
