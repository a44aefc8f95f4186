//! cuDNN.
use super::{LibraryError, WorkspaceAllocator};
use crate::{ConvShape, DType};

#[path = "../cuda/cudnn/choices.rs"]
mod choices;
#[path = "../cuda/cudnn/operands.rs"]
mod operands;
#[path = "../cuda/cudnn/problem.rs"]
mod problem;

pub use choices::ConvPlanRecord;
pub use operands::{ChannelSums, FusionAlternative};
pub use problem::{ConvBenchmark, ConvEngineOptions, ConvFusion, ConvKind, ConvPlanChoice, ConvProblem};

/// A type without values.
pub enum Cudnn {}

/// Convolutions of three tensors.
macro_rules! absent {
    ($($name:ident)*) => {$(
        pub(crate) unsafe fn $name(
            &self,
            _: &ConvShape,
            _: DType,
            _: ConvEngineOptions,
            _: u64,
            _: u64,
            _: u64,
            _: &mut WorkspaceAllocator,
        ) -> Result<(), LibraryError> {
            match *self {}
        }
    )*};
}

impl Cudnn {
    absent! { forward data_gradient add_data_gradient weight_gradient }

    pub(crate) unsafe fn forward_with_sums(
        &self,
        _: &ConvShape,
        _: DType,
        _: ConvEngineOptions,
        _: u64,
        _: u64,
        _: (u64, ChannelSums),
        _: Option<FusionAlternative>,
        _: &mut WorkspaceAllocator,
    ) -> Result<(), LibraryError> {
        match *self {}
    }

    pub(crate) fn prefers_own_data_gradient(
        &self,
        _: &ConvShape,
        _: DType,
        _: ConvEngineOptions,
        _: &mut dyn FnMut() -> Result<(), LibraryError>,
        _: &mut dyn FnMut() -> Result<(), LibraryError>,
    ) -> Result<bool, LibraryError> {
        match *self {}
    }
}
