//! What can go wrong in the engine: every error names the operation, its operands and what would have been accepted.
use crate::{DType, Device, Shape, Tensor};
use std::fmt;

/// The result of a fallible engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the engine.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The shapes of the operands do not fit the operation.
    #[error("{op}: {why} (got {operands})")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Its tensors.
        operands: Operands,
        /// What does not fit, and what would.
        why: String,
    },
    /// A dtype that the operation does not take.
    #[error("{op}: accepts {accepted} (got {operands})")]
    DType {
        /// The operation.
        op: &'static str,
        /// Its tensors.
        operands: Operands,
        /// What it takes.
        accepted: &'static str,
    },
    /// An option or an element that is out of range.
    #[error("{op}: {why} (got {operands})")]
    Value {
        /// The operation.
        op: &'static str,
        /// Its tensors.
        operands: Operands,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A device, its driver or one of its libraries refused or failed.
    #[error("{op} on {device}: {why} (got {operands})")]
    Device {
        /// The operation.
        op: &'static str,
        /// Where it ran.
        device: Device,
        /// Its tensors.
        operands: Operands,
        /// What was refused, and what to do.
        why: String,
    },
    /// The graph cannot be walked.
    #[error("backward: {why}")]
    Autograd {
        /// What is wrong, and what to do.
        why: String,
    },
    /// The allocator refused.
    #[error(
        "out of memory on {device}: {bytes} bytes more were asked for, {in_use} are in use; lower the batch size or the image size"
    )]
    OutOfMemory {
        /// Which device.
        device: Device,
        /// Bytes of the request.
        bytes: usize,
        /// Bytes held by tensors at that moment.
        in_use: usize,
    },
}

impl Error {
    /// A shape error of `op` over named operands.
    pub fn shape(op: &'static str, operands: &[(&'static str, &Tensor)], why: impl Into<String>) -> Error {
        Error::Shape { op, operands: Operands::of(operands), why: why.into() }
    }

    /// A dtype error of `op` over named operands.
    pub fn dtype(op: &'static str, operands: &[(&'static str, &Tensor)], accepted: &'static str) -> Error {
        Error::DType { op, operands: Operands::of(operands), accepted }
    }

    /// A value error of `op` over named operands.
    pub fn value(op: &'static str, operands: &[(&'static str, &Tensor)], why: impl Into<String>) -> Error {
        Error::Value { op, operands: Operands::of(operands), why: why.into() }
    }
}

/// Names, dtypes, shapes and devices of an operation's tensors, as they stand in an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operands(pub Vec<(&'static str, DType, Shape, Device)>);

impl Operands {
    pub(crate) fn of(operands: &[(&'static str, &Tensor)]) -> Self {
        Operands(operands.iter().map(|(n, t)| (*n, t.dtype(), *t.shape(), t.device())).collect())
    }
}

impl fmt::Display for Operands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, dtype, shape, device)) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{name}: {dtype}{shape} on {device}")?;
        }
        if self.0.is_empty() { f.write_str("no tensor") } else { Ok(()) }
    }
}
