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
mod cuda_source;
mod cuda_text;
mod differentiate;
mod expression;
pub(crate) mod graph;
#[cfg(test)]
mod kernel_text_tests;
mod program_kernels;
mod signature;
pub(crate) mod update;
mod value;

pub use expression::{Expression, MAX_INPUTS, expression};
pub use signature::Broadcast;
pub use update::{
    CpuLoop, Factoring, Formula, GradClip, GradientRule, LossScaling, NextState, OptimizerStateSpec,
    UpdateRule,
};
pub use value::*;

pub(crate) use batch_norm::{BatchNormKernels, GradStorage};
pub(crate) use cuda_source::GeneratedKernel;
pub(crate) use program_kernels::ProgramKernels;
pub(crate) use signature::{KernelOutput, KernelSignature};
pub(crate) use update::{ChunkLayout, UPDATE_SCALARS, UpdateScalar};
