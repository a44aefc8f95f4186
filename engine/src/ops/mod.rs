//! The operations: one file each, with the public method, its dispatch and its backward pass.
//!
//! Float operations accept f32, f16 and bf16 on the CPU and on CUDA, and f64 on the CPU. On the CPU f16 and bf16 are computed in f32 and
//! rounded, in the kernel or around it (see `half.rs`); convolutions and large linear layers in bf16 use bf16 instructions where the CPU has
//! them.

/// Runs `$body` with `$T` as f32 or f64, the types in which CPU kernels compute. Other dtypes are an error that names the operands;
/// f16 and bf16 are widened to f32 before.
macro_rules! dispatch_real {
    ($op:expr, [$(($name:literal, $tensor:expr)),* $(,)?], $T:ident => $body:expr) => {{
        let operands: &[(&'static str, &$crate::Tensor)] = &[$(($name, $tensor)),*];
        match operands[0].1.dtype() {
            $crate::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::DType::F64 => {
                type $T = f64;
                $body
            }
            _ => Err($crate::Error::dtype($op, operands, "f32, f16, bf16 or f64")),
        }
    }};
}

/// Runs `$body` with `$T` as f16 or bf16.
macro_rules! dispatch_half {
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

/// As [`dispatch_real`], with f16 and bf16, for kernels of [`Stored`](crate::cpu::stored::Stored) elements, which compute them in f32.
macro_rules! dispatch_stored {
    ($op:expr, [$(($name:literal, $tensor:expr)),* $(,)?], $T:ident => $body:expr) => {{
        let operands: &[(&'static str, &$crate::Tensor)] = &[$(($name, $tensor)),*];
        match operands[0].1.dtype() {
            dtype @ ($crate::DType::F16 | $crate::DType::BF16) => dispatch_half!(dtype, $T => $body),
            _ => dispatch_real!($op, [$(($name, $tensor)),*], $T => $body),
        }
    }};
}

mod activation;
pub(crate) mod batch_norm;
mod binary;
pub(crate) mod conv;
pub(crate) mod dropout;
mod fuse;
mod gpu;
#[cfg(test)]
mod gpu_tests;
mod half;
pub(crate) mod image;
#[cfg(test)]
mod launcher_tests;
mod linear;
pub(crate) mod loss;
pub(crate) mod norm;
mod optimizer;
mod pack;
pub(crate) mod pool;
pub(crate) mod reduce;
pub(crate) mod shape;
mod unary;
mod update_state;

pub use batch_norm::{BatchNorm, ConvBatchNorm};
pub use conv::Conv2dOptions;
pub use dropout::MaskRng;
pub use image::{EraseMode, ImageBox, ImageChange, ImagePreparation};
pub use linear::AttentionMask;
pub(crate) use optimizer::ChunkLayout;
pub use optimizer::{UpdateOperands, update};
pub use pack::pack;
pub use pool::{GlobalPool, Pool2dOptions};
#[cfg(test)]
pub(crate) use shape::broadcast_steps;
pub use update_state::{GradClip, GradientRule, LossScaling, PendingUpdateStats, UpdateState, UpdateStats};
pub(crate) use update_state::{UPDATE_SCALARS, UpdateScalar};

use crate::{DType, Error, Result, Tensor};

/// Errors unless all operands have the dtype of the first.
fn same_dtype(op: &'static str, operands: &[(&'static str, &Tensor)]) -> Result<()> {
    if operands.iter().all(|(_, t)| t.dtype() == operands[0].1.dtype()) {
        return Ok(());
    }
    Err(Error::dtype(op, operands, "operands of one dtype"))
}

/// Dtype of sums and statistics of elements of a float dtype: f64 for f64, else f32.
fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}
