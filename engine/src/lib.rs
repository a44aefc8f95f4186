//! Tensors, reverse-mode autograd, and operations on the CPU and on CUDA devices for training image models.
//!
//! ```
//! use fornax_engine::{Tensor, Result};
//! # fn main() -> Result<()> {
//! let x = Tensor::from_slice(&[-1.0f32, 2.0, 3.0], [3])?.variable();
//! let y = x.relu()?.sum_all()?;
//! y.backward()?;
//! assert_eq!(y.item()?, 5.0);
//! assert_eq!(x.grad().unwrap().to_vec::<f32>()?, [0.0, 1.0, 1.0]);
//! # Ok(()) }
//! ```
mod activation;
mod autograd;
pub mod collective;
pub mod conv_shape;
pub mod cpu;
pub mod cuda;
mod device;
pub mod dtype;
mod error;
pub mod fuse;
mod mapped;
/// Operations from outside of the crate.
pub mod op {
    mod kernel;

    pub use kernel::{Geometry, Kernel, KernelBytes, LaunchExtents};
}
mod ops;
pub mod pool_shape;
pub mod random;
pub mod resampling;
mod shape;
mod shapes_only;
mod storage;
mod tensor;
#[cfg(feature = "testing")]
pub mod testing;

pub use activation::Activation;
pub use autograd::{BackwardFn, GradientHook, Hook, checkpoint, gradients, no_grad};
pub use collective::{Collective, PendingCollective, Reduction};
pub use conv_shape::{ConvAlgorithm, ConvShape};
pub use device::Device;
pub use dtype::{DType, Element};
pub use error::{Error, Operands, Result};
pub use fuse::UpdateRule;
pub use mapped::MappedFile;
pub use ops::{AttentionMask, BatchNorm, Conv2dOptions, ConvBatchNorm, GlobalPool};
pub use ops::{EraseMode, ImageBox, ImageChange, ImagePreparation, MaskRng};
pub use ops::{GradClip, GradientRule, LossScaling, PendingUpdateStats};
pub use ops::{UpdateOperands, UpdateState, UpdateStats, pack, update};
pub use pool_shape::Pool2dOptions;
pub use resampling::Interpolation;
pub use shape::{MAX_RANK, Shape};
pub use shapes_only::shapes_only;
pub use storage::{ReadGuard, WriteGuard};
pub use tensor::Tensor;

/// The guide's examples, compiled and run as documentation tests.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../../docs/kernels.md")]
pub struct KernelGuide;
