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
mod autograd;
mod axis;
pub mod collective;
pub mod conv_shape;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "without_cuda/mod.rs"]
pub mod cuda;
mod device;
pub mod dtype;
mod error;
pub mod fuse;
pub mod host_memory;
mod mapped;
pub mod op;
mod ops;
pub mod random;
pub mod resampling;
mod scalar;
mod self_test;
mod shape;
mod shapes_only;
mod storage;
mod tensor;
#[cfg(feature = "testing")]
pub mod testing;
mod window;

pub use autograd::{GradientHook, Hook, checkpoint, gradients, no_grad};
pub use axis::{Axes, Axis};
pub use collective::{Collective, PendingCollective, Reduction};
pub use conv_shape::{ConvAlgorithm, ConvShape};
pub use device::Device;
pub use dtype::{DType, Element};
pub use error::{Error, Operands, Result};
pub use fuse::{GradClip, GradientRule, LossScaling, UpdateRule};
pub use mapped::MappedFile;
#[doc(inline)]
pub use ops::conv::cpu as conv_kernels;
pub use ops::{AttentionMask, BatchNorm, Conv2dOptions, ConvBatchNorm, GlobalPool};
pub use ops::{Comparand, PendingUpdateStats};
pub use ops::{EraseMode, ImageBox, ImageChange, ImagePreparation, MaskRng};
pub use ops::{Pool2dOptions, UpdateOperands, UpdateState, UpdateStats, pack, update};
pub use resampling::Interpolation;
pub use scalar::Activation;
pub use self_test::{SelfTest, self_tests};
pub use shape::{IntoShape, MAX_NUMEL, MAX_RANK, Shape};
pub use shapes_only::shapes_only;
pub use storage::{ReadGuard, WriteGuard};
pub use tensor::{AxisIndex, Generator, IntoAxisIndices, IntoElements, Tensor};

/// The guide's examples, compiled and run as documentation tests.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../../docs/kernels.md")]
pub struct KernelGuide;
