//! f16 and bf16 on the CPU, which are computed in f32. Kernels of [`Stored`](crate::cpu::stored::Stored) elements read and write them; every
//! other operation widens its operands to f32 and rounds its result to the dtype of the first, as GPU kernels do. The casts are tracked operations, so gradients are rounded in the same places.
use crate::{DType, Device, Result, Tensor};

impl Tensor {
    /// True for f16 and bf16 on the CPU, which are computed in f32.
    pub(super) fn is_half_on_cpu(&self) -> bool {
        matches!(self.dtype(), DType::F16 | DType::BF16) && self.device() == Device::Cpu
    }

    /// This tensor cast to f32 if it is f16 or bf16 on the CPU, else unchanged.
    pub(super) fn widened(&self) -> Result<Tensor> {
        if self.is_half_on_cpu() { self.to_dtype(DType::F32) } else { Ok(self.clone()) }
    }

    /// This result of widened operands, cast to the dtype of `like`.
    pub(super) fn rounded_as(self, like: &Tensor) -> Result<Tensor> {
        self.to_dtype(like.dtype())
    }
}
