//! Pointwise fusion: an expression over tensors becomes one kernel, and its gradients another one.
//!
//! An expression is a Rust function of scalars. [`Expression::apply`] runs it over tensors as one operation, tracked by autograd like any
//! other. On a GPU a kernel is generated, compiled at its first use, and cached; on the CPU the expression runs as vectorised loops over
//! cache-sized blocks. Gradients are derived symbolically and computed by one kernel, which reads inputs and upstream gradient once.
//!
//! ```
//! use fornax_engine::{Result, Tensor, fuse};
//! # fn main() -> Result<()> {
//! let swish = fuse::expression(|[x, beta]| x * fuse::sigmoid(beta * x));
//! let x = Tensor::from_slice(&[-1.0f32, 0.0, 2.0, 3.0], [2, 2])?.variable();
//! let beta = Tensor::from_slice(&[1.0f32, 0.5], [2])?.variable(); // one for each channel
//! let y = swish.apply(&[&x, &beta])?;
//! y.sum_all()?.backward()?;
//! assert_eq!(beta.grad().unwrap().dims(), [2]);
//! # Ok(()) }
//! ```
mod batch_norm;
mod chunk_layout;
mod cuda_source;
mod cuda_text;
mod differentiate;
mod expression;
pub(crate) mod formula;
mod gradient_rule;
pub(crate) mod graph;
#[cfg(test)]
mod kernel_text_tests;
mod program_kernels;
mod signature;
pub(crate) mod stage;
mod update_rule;
mod update_scalar;
mod update_source;
mod value;

pub use expression::{Expression, MAX_INPUTS, expression};
pub use formula::{Formula, NextState};
pub use gradient_rule::{GradClip, GradientRule, LossScaling};
pub use signature::Broadcast;
pub use update_rule::{CpuLoop, Factoring, OptimizerStateSpec, UpdateRule};
pub use value::*;

pub(crate) use batch_norm::{BatchNormKernels, GradStorage};
pub(crate) use chunk_layout::ChunkLayout;
pub(crate) use cuda_source::GeneratedKernel;
pub(crate) use program_kernels::ProgramKernels;
pub(crate) use signature::{KernelOutput, KernelSignature};
pub(crate) use update_scalar::{UPDATE_SCALARS, UpdateScalar};
