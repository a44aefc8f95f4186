//! Tests and timings of operations, for [`op::Kernel`](crate::op::Kernel)s and other functions of tensors: [`gradcheck`] and
//! [`gradgradcheck`] against finite differences, [`check_devices`] on the emulated device, [`check_capture`] in a CUDA graph, [`time`]
//! against the bandwidth of a copy.
mod capture;
mod compare;
mod custom_op;
mod devices;
mod gradcheck;
mod timing;

pub use capture::check_capture;
pub use compare::{tolerance, worst};
pub use custom_op::check_op;
pub use devices::{check_devices, counted_bytes};
pub use gradcheck::{gradcheck, gradgradcheck};
pub use timing::{Timing, time};

use crate::{Error, Result, Tensor};

/// Failed check: what differs, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CheckError(String);

impl From<Error> for CheckError {
    fn from(error: Error) -> CheckError {
        CheckError(error.to_string())
    }
}

/// Result of a check.
pub type CheckResult = std::result::Result<(), CheckError>;

/// Elements of any dtype as f64, on the host.
fn values(t: &Tensor) -> Result<Vec<f64>> {
    t.detach().to_device(&crate::Device::Cpu)?.to_dtype(crate::DType::F64)?.to_vec()
}
