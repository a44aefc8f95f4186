//! Errors of the engine. Each names the operation, its operands and what would have been accepted.
use crate::host_memory::MemoryStats;
use crate::{DType, Device, Shape, Tensor};
use std::borrow::Cow;
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
        /// Its operands.
        operands: Operands,
        /// The mismatch, and what would be accepted.
        why: String,
    },
    /// The operation does not support the dtype.
    #[error("{op}: accepts {accepted} (got {operands})")]
    DType {
        /// The operation.
        op: &'static str,
        /// Its operands.
        operands: Operands,
        /// The accepted dtypes.
        accepted: Cow<'static, str>,
    },
    /// An option or an element is out of range.
    #[error("{op}: {why} (got {operands})")]
    Value {
        /// The operation.
        op: &'static str,
        /// Its operands.
        operands: Operands,
        /// The invalid value, and the valid range.
        why: String,
    },
    /// A device, its driver or one of its libraries reported an error.
    #[error("{op} on {device}: {why} (got {operands})")]
    Device {
        /// The operation.
        op: &'static str,
        /// The device it ran on.
        device: Device,
        /// Its operands.
        operands: Operands,
        /// The cause, and the remedy.
        why: String,
    },
    /// A tensor cannot be differentiated.
    #[error("backward: {why}")]
    Autograd {
        /// The cause, and the remedy.
        why: String,
    },
    /// A collective operation failed: a rank ended, did not answer in time, or called another operation.
    #[error("{op} on rank {rank} of {world}: {why}")]
    Collective {
        /// The operation.
        op: &'static str,
        /// Rank of this process.
        rank: usize,
        /// Number of ranks.
        world: usize,
        /// The cause, which names the rank and the host that failed where they are known.
        why: String,
    },
    /// An allocation failed, after cached memory was released.
    #[error(
        "out of memory on {device}: {requested} bytes requested, {allocated} allocated, {reserved} reserved{}; lower the batch size or the \
         image size, or use gradient checkpointing or mixed precision",
        total.map_or(String::new(), |total| format!(", {total} in total"))
    )]
    OutOfMemory {
        /// The device.
        device: Device,
        /// Bytes of the request.
        requested: usize,
        /// Bytes allocated by tensors and temporary buffers.
        allocated: usize,
        /// Bytes allocated from the driver or the system: allocated plus cached.
        reserved: usize,
        /// Total bytes of a CUDA device.
        total: Option<usize>,
    },
}

impl Error {
    pub(crate) fn out_of_memory(
        device: Device,
        requested: usize,
        stats: &MemoryStats,
        total: Option<usize>,
    ) -> Error {
        let &MemoryStats { allocated, reserved, .. } = stats;
        Error::OutOfMemory { device, requested, allocated, reserved, total }
    }

    /// A shape error of `op` over named operands.
    pub fn shape(op: &'static str, operands: &[(&'static str, &Tensor)], why: impl Into<String>) -> Error {
        Error::Shape { op, operands: Operands::of(operands), why: why.into() }
    }

    /// A dtype error of `op` over named operands.
    pub fn dtype(
        op: &'static str,
        operands: &[(&'static str, &Tensor)],
        accepted: impl Into<Cow<'static, str>>,
    ) -> Error {
        Error::DType { op, operands: Operands::of(operands), accepted: accepted.into() }
    }

    /// A value error of `op` over named operands.
    pub fn value(op: &'static str, operands: &[(&'static str, &Tensor)], why: impl Into<String>) -> Error {
        Error::Value { op, operands: Operands::of(operands), why: why.into() }
    }
}

/// Names, dtypes, shapes and devices of an operation's operands, for error messages.
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
        if self.0.is_empty() { f.write_str("no tensors") } else { Ok(()) }
    }
}
