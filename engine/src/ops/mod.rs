//! The operations, in one folder for each group: the methods on `Tensor`, and next to them the kernels of the group (`cpu`) and its launchers (`cuda`).
//!
//! Float operations accept f32, f16 and bf16 on the CPU and on CUDA, and f64 on the CPU. On the CPU f16 and bf16 are computed in f32 and
//! rounded, in the kernel or around it; convolutions and large linear layers in bf16 use bf16 instructions where the CPU has them.
pub(crate) mod batch_norm;
pub(crate) mod conv;
pub(crate) mod dropout;
pub(crate) mod elementwise;
mod fuse;
#[cfg(all(test, feature = "cuda"))]
mod gpu_tests;
pub(crate) mod image;
#[cfg(all(test, feature = "cuda"))]
mod launcher_tests;
mod linear;
pub(crate) mod loss;
pub(crate) mod norm;
mod optimizer;
mod pack;
pub(crate) mod pool;
pub(crate) mod reduce;
pub(crate) mod shape;

pub use batch_norm::{BatchNorm, ConvBatchNorm};
pub use conv::Conv2dOptions;
pub use dropout::MaskRng;
pub use elementwise::Comparand;
pub use image::{EraseMode, ImageBox, ImageChange, ImagePreparation};
pub use linear::AttentionMask;
pub use optimizer::{PendingUpdateStats, UpdateOperands, UpdateState, UpdateStats, update};
pub use pack::pack;
pub use pool::{GlobalPool, Pool2dOptions};
#[cfg(all(test, feature = "cuda"))]
pub(crate) use shape::broadcast_steps;

use crate::DType;

/// Dtype of sums and statistics of elements of a float dtype: f64 for f64, else f32.
fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}
