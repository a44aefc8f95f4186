//! f16 and bf16 on the CPU, whose kernels compute in f32: an operation widens its operands, and rounds its result to the dtype of the
//! first, as kernels of a GPU do. The conversions are operations themselves, so gradients are rounded in the same places.
use crate::{DType, Device, Result, Tensor};

impl Tensor {
    /// True where an operation is to be computed by way of f32.
    pub(super) fn is_half_on_cpu(&self) -> bool {
        matches!(self.dtype(), DType::F16 | DType::BF16) && self.device() == Device::Cpu
    }

    /// This tensor in f32, if it is one of half precision.
    pub(super) fn widened(&self) -> Result<Tensor> {
        if self.is_half_on_cpu() { self.to_dtype(DType::F32) } else { Ok(self.clone()) }
    }

    /// This result of widened operands, in the dtype of the first one.
    pub(super) fn rounded_as(self, like: &Tensor) -> Result<Tensor> {
        self.to_dtype(like.dtype())
    }
}

/// An optional operand, widened.
pub(super) fn widened(t: Option<&Tensor>) -> Result<Option<Tensor>> {
    t.map(Tensor::widened).transpose()
}
