//! The operands and results of an operation on the CPU.
use crate::{DType, Element, ReadGuard, Result, Tensor, WriteGuard};

/// Operands and results of one call of an operation's CPU kernel.
pub(crate) struct CpuCall<'a> {
    pub(super) x: &'a [Tensor],
    pub(super) y: &'a [Tensor],
}

impl CpuCall<'_> {
    /// Dtype of the first operand, in which the kernel computes: f32 or f64, and f16 or bf16 if its operation
    /// [stores them](super::Spec::stores_half_on_cpu).
    pub(crate) fn dtype(&self) -> DType {
        self.x[0].dtype()
    }

    /// Number of operands.
    pub(crate) fn operands(&self) -> usize {
        self.x.len()
    }

    /// Elements of operand `i`, whose dtype is `T`.
    pub(crate) fn x<T: Element>(&self, i: usize) -> Result<ReadGuard<'_, T>> {
        self.x[i].read()
    }

    /// Elements of operand `i`, if there are so many operands.
    pub(crate) fn optional<T: Element>(&self, i: usize) -> Result<Option<ReadGuard<'_, T>>> {
        self.x.get(i).map(Tensor::read).transpose()
    }

    /// Operand `i`, for kernels that need not read all of its elements.
    pub(crate) fn tensor(&self, i: usize) -> &Tensor {
        &self.x[i]
    }

    /// Elements of result `i`, whose dtype is `T`.
    pub(crate) fn y<T: Element>(&self, i: usize) -> Result<WriteGuard<'_, T>> {
        self.y[i].write()
    }
}

/// Runs `$body` with `$T` as the dtype in which a [`CpuCall`] computes, f32 or f64.
macro_rules! for_real {
    ($call:expr, $T:ident => $body:expr) => {{
        match $call.dtype() {
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::F64 => {
                type $T = f64;
                $body
            }
            dtype => unreachable!("{dtype} was checked or widened"),
        };
        Ok(())
    }};
}

/// `$body` with `$T` as f16 or bf16, by dtype.
macro_rules! match_half {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F16 => {
                type $T = $crate::dtype::f16;
                $body
            }
            $crate::DType::BF16 => {
                type $T = $crate::dtype::bf16;
                $body
            }
            dtype => unreachable!("{dtype} is not a half-precision dtype"),
        }
    };
}

/// `$body` with `$T` as f32, f64, f16 or bf16, by a checked dtype.
macro_rules! match_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::F64 => {
                type $T = f64;
                $body
            }
            dtype => $crate::op::match_half!(dtype, $T => $body),
        }
    };
}

/// As [`for_real`], with f16 and bf16.
macro_rules! for_stored {
    ($call:expr, $T:ident => $body:expr) => {{
        $crate::op::match_float!($call.dtype(), $T => $body);
        Ok(())
    }};
}

/// As [`for_stored`], with i64 and u8.
macro_rules! for_any {
    ($call:expr, $T:ident => $body:expr) => {{
        $crate::dtype::dispatch_any!($call.dtype(), $T => $body);
        Ok(())
    }};
}
pub(crate) use {for_any, for_real, for_stored, match_float, match_half};
