//! Helpers for the CUDA branches of operations: the device to run on, memory for results, and errors that name the operands.
use crate::cuda::{self, DeviceSlice, Gpu};
use crate::error::Operands;
use crate::{DType, Device, Error, IntoShape, Result, Tensor};
use std::sync::Arc;

/// An operation whose operands are on a GPU.
pub(super) struct OnGpu<'a> {
    /// The GPU of the operands.
    pub gpu: Arc<Gpu>,
    op: &'static str,
    operands: &'a [(&'static str, &'a Tensor)],
}

impl<'a> OnGpu<'a> {
    /// The operation's GPU, or `None` when the first operand is on the CPU. Errors when the operands are on different devices, and when
    /// the first is on a GPU and not f32, f16 or bf16.
    pub fn of(op: &'static str, operands: &'a [(&'static str, &'a Tensor)]) -> Result<Option<OnGpu<'a>>> {
        let on = OnGpu::of_any(op, operands)?;
        if on.is_some() && !matches!(operands[0].1.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::dtype(op, operands, "f32, f16 or bf16 on a GPU"));
        }
        Ok(on)
    }

    /// As [`OnGpu::of`], for an operation on any dtype.
    pub fn of_any(op: &'static str, operands: &'a [(&'static str, &'a Tensor)]) -> Result<Option<OnGpu<'a>>> {
        let (x, device) = (operands[0].1, operands[0].1.device());
        if operands.iter().any(|(_, t)| t.device() != device) {
            let why = "all operands must be on one device; move them with to_device".to_string();
            return Err(Error::Device { op, device, operands: Operands::of(operands), why });
        }
        let Device::Cuda(_) = device else { return Ok(None) };
        Ok(Some(OnGpu { gpu: x.device_view().gpu().clone(), op, operands }))
    }

    /// A tensor whose elements are all written by the kernels that `fill` queues.
    pub fn build(
        &self,
        shape: impl IntoShape,
        dtype: DType,
        fill: impl FnOnce(DeviceSlice) -> cuda::Result<()>,
    ) -> Result<Tensor> {
        self.with_op_context(Tensor::build_on(&self.gpu, shape.into_shape()?, dtype, fill))
    }

    /// An uninitialized tensor, to be written by the work queued next.
    pub fn empty(&self, shape: impl IntoShape, dtype: DType) -> Result<Tensor> {
        self.build(shape, dtype, |_| Ok(()))
    }

    /// Converts a CUDA error to an error of this operation.
    pub fn with_op_context<T>(&self, result: cuda::Result<T>) -> Result<T> {
        result.map_err(|failure| failure.with_op_context(self.op, self.gpu.device(), self.operands))
    }
}
